"""`min_length`: mask the tokens that end a sequence until it has so many others."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ....common.protocol import SequenceRequest
from ..api import end_ids
from .api import LogitsProcessor, SequenceState
from .device import put, to_device


class MinLength(LogitsProcessor[tuple[Tensor, Tensor]]):
    """Set the logits of a short sequence's ends to -inf."""

    def applies_to(self, sequence: SequenceRequest) -> bool:
        """See `LogitsProcessor.applies_to`."""
        return sequence.min_length > 0 and bool(end_ids(sequence, self.context.eos_ids))

    def last_position(self, sequence: SequenceRequest) -> float:
        """See `LogitsProcessor.last_position`."""
        return sequence.min_length

    def gather(self, states: Sequence[SequenceState], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return rows and columns of what is masked, int64[ends of all sequences] each."""
        ends = [end_ids(state.sequence, self.context.eos_ids) for state in states]
        rows = [row for row, ids in enumerate(ends) for _ in ids]
        return to_device(device, rows), to_device(device, [id_ for ids in ends for id_ in ids])

    def apply(self, logits: Tensor, parameters: tuple[Tensor, Tensor]) -> None:
        """See `LogitsProcessor.apply`."""
        rows, columns = parameters
        put(logits, rows, columns, float("-inf"))
