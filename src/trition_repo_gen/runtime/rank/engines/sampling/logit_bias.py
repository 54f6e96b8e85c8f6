"""`logit_bias`: add a number to the logits of some tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ....common.protocol import SequenceRequest
from .api import LogitsProcessor, SequenceState
from .device import to_device


class LogitBias(LogitsProcessor[tuple[Tensor, Tensor, Tensor]]):
    """Add the sequence's biases to its logits."""

    def applies_to(self, sequence: SequenceRequest) -> bool:
        """See `LogitsProcessor.applies_to`."""
        return bool(sequence.logit_bias)

    def gather(self, states: Sequence[SequenceState], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows and columns of the biases, int64[biases of all sequences] each, and float32 of as many."""
        biases = [
            (row, token, float(bias))
            for row, state in enumerate(states)
            for token, bias in state.sequence.logit_bias.items()
        ]
        rows, columns, values = zip(*biases, strict=True)
        return to_device(device, rows), to_device(device, columns), to_device(device, values)

    def apply(self, logits: Tensor, parameters: tuple[Tensor, Tensor, Tensor]) -> None:
        """See `LogitsProcessor.apply`."""
        rows, columns, values = parameters
        logits[rows, columns] += values
