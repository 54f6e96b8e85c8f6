"""`repetition_penalty`: make tokens of the prompt and of the answer so far less likely (CTRL, Keskar et al. 2019)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ....common.protocol import SequenceRequest
from .api import SamplerContext, SequenceState, StatefulProcessor
from .device import column, put, to_device
from .token_table import TokenTable

_LEAST, _MOST = 1e-20, 1e20
"""Penalties beyond them would make logits infinite, and all alike; within, the order of the logits is kept."""


class RepetitionPenalty(StatefulProcessor[tuple[Tensor, Tensor]]):
    """Divide positive and multiply negative logits of seen tokens by the penalty."""

    def __init__(self, context: SamplerContext):
        super().__init__(context)
        self._seen = TokenTable(context.vocab_size, torch.bool)

    def applies_to(self, sequence: SequenceRequest) -> bool:
        """See `LogitsProcessor.applies_to`."""
        return sequence.repetition_penalty != 1.0

    def add(self, state: SequenceState, prompt_tokens: Sequence[int], device: torch.device) -> None:
        """Mark the prompt's tokens as seen."""
        self._seen.add(state.request_id, device).index_fill_(0, to_device(device, prompt_tokens), True)

    def gather(self, states: Sequence[SequenceState], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the penalties, float32[sequences, 1], and the sequences' slots, int64[sequences]."""
        penalties = column(device, [_within_float32(state.sequence.repetition_penalty) for state in states])
        return penalties, self._seen.slots([state.request_id for state in states], device)

    def apply(self, logits: Tensor, parameters: tuple[Tensor, Tensor]) -> None:
        """See `LogitsProcessor.apply`."""
        penalties, slots = parameters
        changed = torch.where(logits > 0, logits / penalties, logits * penalties)
        torch.where(self._seen.values[slots], changed, logits, out=logits)

    def accept(self, tokens: Tensor, parameters: tuple[Tensor, Tensor]) -> None:
        """Mark the new tokens as seen."""
        _, slots = parameters
        put(self._seen.values, slots, tokens, True)

    def remove(self, state: SequenceState) -> None:
        """Forget the sequence's tokens."""
        self._seen.remove(state.request_id)


def _within_float32(penalty: float) -> float:
    return min(max(penalty, _LEAST), _MOST)
