"""`temperature`: divide the logits."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ....common.protocol import SequenceRequest
from .api import LogitsProcessor, SequenceState
from .device import column


class Temperature(LogitsProcessor[Tensor]):
    """Divide the logits by the temperature; 0 means greedy, which needs no division."""

    only_sampled = True

    def applies_to(self, sequence: SequenceRequest) -> bool:
        """See `LogitsProcessor.applies_to`."""
        return sequence.temperature != 1.0

    def gather(self, states: Sequence[SequenceState], device: torch.device) -> Tensor:
        """Return float32[sequences, 1]."""
        return column(device, [state.sequence.temperature for state in states])

    def apply(self, logits: Tensor, parameters: Tensor) -> None:
        """See `LogitsProcessor.apply`."""
        logits.div_(parameters)
