"""What a sampling parameter has to offer the sampler.

A processor is one object per sampler and serves all sequences that ask for its parameter, its group. The rules:

- Nothing waits for the GPU, which is still computing the step: no `.item()`, `.tolist()` or `int(tensor)`, no indexing
  with booleans; values go to the device by `to_device`, numbers into a tensor at indices by `put`. On a GPU
  `tests/rank/engines/sampling` fails where something waits.
- A sequence's result must not depend on the other sequences of its group, to the last bit: operate on elements, or
  reduce over a number of elements that does not depend on the group.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ....common.protocol import SequenceRequest
from .token_table import TokenTable


@dataclass(eq=False)
class SequenceState:
    """A sequence that has sampling parameters, from `Sampler.add` to `Sampler.remove`."""

    request_id: int
    sequence: SequenceRequest
    position: int = 0
    """Tokens that were sampled so far."""


@dataclass(frozen=True)
class SamplerContext:
    """What all processors of a sampler share."""

    vocab_size: int
    eos_ids: tuple[int, ...]
    """Tokens that end every sequence; `end_ids` returns those of one."""
    output_counts: TokenTable
    """int32: how often each token was sampled, of sequences with a processor whose `counts_output` is set."""


class LogitsProcessor[P](ABC):
    """One sampling parameter.

    `P` is the type of what `gather` copies to the device: the parameters of a group, one entry per sequence.
    """

    only_sampled: ClassVar[bool] = False
    """Whether greedy sequences skip it, because it never changes which logit is the largest."""
    counts_output: ClassVar[bool] = False
    """Whether it reads `SamplerContext.output_counts`."""

    def __init__(self, context: SamplerContext):
        self.context = context

    @abstractmethod
    def applies_to(self, sequence: SequenceRequest) -> bool:
        """Return whether the sequence's parameters ask for this processor."""

    def last_position(self, sequence: SequenceRequest) -> float:
        """Return after how many tokens the processor no longer applies to the sequence."""
        del sequence
        return math.inf

    @abstractmethod
    def gather(self, states: Sequence[SequenceState], device: torch.device) -> P:
        """Return the group's parameters on the device; called when the group changes, not at every step."""

    @abstractmethod
    def apply(self, logits: Tensor, parameters: P) -> None:
        """Change the group's logits in place.

        Args:
            logits: float32[sequences, vocabulary], in the order of `gather`'s states.
            parameters: the result of `gather`.
        """


class StatefulProcessor[P](LogitsProcessor[P]):
    """A sampling parameter that depends on the tokens of a sequence."""

    @abstractmethod
    def add(self, state: SequenceState, prompt_tokens: Sequence[int], device: torch.device) -> None:
        """Begin a sequence that the processor applies to."""

    @abstractmethod
    def accept(self, tokens: Tensor, parameters: P) -> None:
        """Take the tokens that were sampled for the group.

        Args:
            tokens: int64[sequences], on the device, in the order of `gather`'s states.
            parameters: the result of `gather`.
        """

    @abstractmethod
    def remove(self, state: SequenceState) -> None:
        """End a sequence that was added."""
