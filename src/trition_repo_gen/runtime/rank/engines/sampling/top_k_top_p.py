"""`top_k` and `top_p`: keep the most likely tokens, by number and by probability (Holtzman et al. 2020)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ....common.protocol import SequenceRequest
from .api import LogitsProcessor, SequenceState
from .device import Rows, column, rows_on

_FEW = 1024
"""Logits that are sorted for sequences whose top-k is no larger: sorting all takes milliseconds on a GPU."""


@dataclass(frozen=True)
class _Part:
    """Sequences of the group for which equally many logits are sorted."""

    rows: Rows
    sorted: int
    top_k: Tensor
    """int64[sequences, 1]; `sorted` where there is no limit."""
    top_p: Tensor
    """float32[sequences, 1]; infinity where there is no limit: sums of probabilities may round to more than 1."""


class TopKTopP(LogitsProcessor[list[_Part]]):
    """Set what top-k and then top-p leave out to -inf.

    One class handles both parameters, because sorting the logits takes most of the time and both need them sorted.
    """

    only_sampled = True

    def applies_to(self, sequence: SequenceRequest) -> bool:
        """See `LogitsProcessor.applies_to`."""
        return sequence.top_k > 0 or 0.0 < sequence.top_p < 1.0

    def gather(self, states: Sequence[SequenceState], device: torch.device) -> list[_Part]:
        """Return the parameters of sequences with a small top-k, and those of the others."""
        few = [0 < state.sequence.top_k <= _FEW for state in states]
        parts = []
        for is_few, most in ((True, _FEW), (False, self.context.vocab_size)):
            if rows := [row for row, each in enumerate(few) if each is is_few]:
                size = min(most, self.context.vocab_size)
                sequences = [states[row].sequence for row in rows]
                top_k = [min(sequence.top_k, size) or size for sequence in sequences]
                top_p = [sequence.top_p if 0.0 < sequence.top_p < 1.0 else math.inf for sequence in sequences]
                parts.append(_Part(rows_on(device, rows), size, column(device, top_k), column(device, top_p)))
        return parts

    def apply(self, logits: Tensor, parameters: list[_Part]) -> None:
        """See `LogitsProcessor.apply`."""
        for part in parameters:
            logits[part.rows] = _filtered(logits[part.rows], part)


def _filtered(logits: Tensor, part: _Part) -> Tensor:
    """Return the logits with what is left out at -inf.

    Sums over `part.sorted` logits, whose number depends on the sequence alone: with the number, the last bit of the sum
    would change.
    """
    ordered = logits.topk(part.sorted, dim=-1).values
    smallest = ordered.gather(-1, part.top_k - 1)
    ordered = ordered.masked_fill(ordered < smallest, float("-inf"))

    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    inside = ((before < part.top_p) & (probabilities > 0)).sum(dim=-1, keepdim=True).clamp(min=1)
    smallest = torch.maximum(smallest, ordered.gather(-1, inside - 1))
    return logits.masked_fill(logits < smallest, float("-inf"))
