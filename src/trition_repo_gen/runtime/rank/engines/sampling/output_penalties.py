"""`presence_penalty` and `frequency_penalty`: make tokens of the answer less likely, by OpenAI's definition.

The prompt does not count.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ....common.protocol import SequenceRequest
from .api import LogitsProcessor, SequenceState
from .device import column


class _OutputPenalty(LogitsProcessor[tuple[Tensor, Tensor]]):
    """Subtract a multiple of the sequence's penalty from the logits."""

    counts_output = True

    @abstractmethod
    def penalty(self, sequence: SequenceRequest) -> float:
        """Return the sequence's parameter."""

    @abstractmethod
    def multiple(self, counts: Tensor) -> Tensor:
        """Return how many times the penalty is subtracted.

        Args:
            counts: int32[sequences, vocabulary], how often each token was sampled.
        """

    def applies_to(self, sequence: SequenceRequest) -> bool:
        """See `LogitsProcessor.applies_to`."""
        return self.penalty(sequence) != 0.0

    def gather(self, states: Sequence[SequenceState], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the penalties, float32[sequences, 1], and the sequences' slots, int64[sequences]."""
        penalties = column(device, [float(self.penalty(state.sequence)) for state in states])
        return penalties, self.context.output_counts.slots([state.request_id for state in states], device)

    def apply(self, logits: Tensor, parameters: tuple[Tensor, Tensor]) -> None:
        """See `LogitsProcessor.apply`."""
        penalties, slots = parameters
        logits.sub_(self.multiple(self.context.output_counts.values[slots]) * penalties)


class PresencePenalty(_OutputPenalty):
    """Subtract the penalty from the logits of tokens that were sampled before."""

    def penalty(self, sequence: SequenceRequest) -> float:
        """See `_OutputPenalty.penalty`."""
        return sequence.presence_penalty

    def multiple(self, counts: Tensor) -> Tensor:
        """See `_OutputPenalty.multiple`."""
        return counts > 0


class FrequencyPenalty(_OutputPenalty):
    """Subtract the penalty from a token's logit for each time that it was sampled before."""

    def penalty(self, sequence: SequenceRequest) -> float:
        """See `_OutputPenalty.penalty`."""
        return sequence.frequency_penalty

    def multiple(self, counts: Tensor) -> Tensor:
        """See `_OutputPenalty.multiple`."""
        return counts
