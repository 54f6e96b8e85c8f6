"""`min_p`: keep tokens nearly as likely as the most likely one (Nguyen et al. 2024, arXiv 2407.01082)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ....common.protocol import SequenceRequest
from .api import LogitsProcessor, SequenceState
from .device import column


class MinP(LogitsProcessor[Tensor]):
    """Set logits of tokens to -inf whose probability is below `min_p` times the largest one."""

    only_sampled = True

    def applies_to(self, sequence: SequenceRequest) -> bool:
        """See `LogitsProcessor.applies_to`."""
        return sequence.min_p > 0.0

    def gather(self, states: Sequence[SequenceState], device: torch.device) -> Tensor:
        """Return the logarithms of `min_p`, float32[sequences, 1]."""
        return column(device, [math.log(state.sequence.min_p) for state in states])

    def apply(self, logits: Tensor, parameters: Tensor) -> None:
        """See `LogitsProcessor.apply`; a ratio of probabilities is a difference of logits."""
        logits.masked_fill_(logits < logits.amax(-1, keepdim=True) + parameters, float("-inf"))
