"""`presence_penalty`: make tokens of the answer less likely, by OpenAI's definition: the prompt does not count."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ....common.protocol import SequenceRequest
from .api import LogitsProcessor, SequenceState
from .device import column


class PresencePenalty(LogitsProcessor[tuple[Tensor, Tensor]]):
    """Subtract the penalty from the logits of tokens that were sampled before."""

    counts_output = True

    def applies_to(self, sequence: SequenceRequest) -> bool:
        """See `LogitsProcessor.applies_to`."""
        return sequence.presence_penalty != 0.0

    def gather(self, states: Sequence[SequenceState], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the penalties, float32[sequences, 1], and the sequences' slots, int64[sequences]."""
        penalties = column(device, [float(state.sequence.presence_penalty) for state in states])
        return penalties, self.context.output_counts.slots([state.request_id for state in states], device)

    def apply(self, logits: Tensor, parameters: tuple[Tensor, Tensor]) -> None:
        """See `LogitsProcessor.apply`."""
        penalties, slots = parameters
        counts = self.context.output_counts.values[slots]
        logits.sub_((counts > 0) * penalties)
