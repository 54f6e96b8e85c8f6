"""`min_length`: mask the tokens that end a sequence until it has so many others."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ....common.protocol import SequenceRequest
from ..api import end_ids
from .api import LogitsProcessor, SequenceState
from .device import to_device


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
        ends = [(row, id_) for row, state in enumerate(states) for id_ in end_ids(state.sequence, self.context.eos_ids)]
        rows, columns = zip(*ends, strict=True)
        return to_device(device, rows), to_device(device, columns)

    def apply(self, logits: Tensor, parameters: tuple[Tensor, Tensor]) -> None:
        """See `LogitsProcessor.apply`."""
        logits[parameters] = float("-inf")
