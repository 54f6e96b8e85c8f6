"""The sequences of a step, by what is done with their logits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .api import LogitsProcessor, SequenceState, StatefulProcessor
from .device import Rows, rows_on, to_device
from .random import NoiseKeys
from .token_table import TokenTable


@dataclass(eq=False)
class TrackedSequence(SequenceState):
    """A sequence with the processors that apply to it."""

    processors: int = 0
    """Bit `i` is set where the sampler's processor `i` applies; one bit more where the sequence is not greedy."""
    limits: list[tuple[float, int]] = field(default_factory=list)
    """Positions from which a processor no longer applies, with the processor's bit."""
    stateful: list[StatefulProcessor[Any]] = field(default_factory=list)
    """Processors that keep state for the sequence."""
    counts_output: bool = False
    """Whether one of the processors reads how often each token was sampled."""

    @property
    def active(self) -> int:
        """Those of `processors` that apply to the next token."""
        active = self.processors
        for limit, bit in self.limits:
            if self.position >= limit:
                active &= ~bit
        return active


@dataclass(frozen=True)
class Group:
    """The sequences of a step that a processor applies to."""

    processor: LogitsProcessor[Any]
    rows: Rows
    """Among `Batch.sequences`."""
    parameters: Any
    """The result of the processor's `gather`."""


class Batch:
    """The sequences of some consecutive steps, as long as the same processors apply to each of them.

    Args:
        sequences: one for each row of the logits; None for a row of which the largest logit is taken.
        processors: the sampler's, in order of application.
        output_counts: see `SamplerContext`.
        device: of the logits.
    """

    def __init__(
        self,
        sequences: Sequence[TrackedSequence | None],
        processors: Sequence[LogitsProcessor[Any]],
        output_counts: TokenTable,
        device: torch.device,
    ):
        chosen = [
            (active, row, sequence)
            for row, sequence in enumerate(sequences)
            if sequence is not None and (active := sequence.active)
        ]
        # Sampled sequences come first, and those with the same processors follow one another: most groups are slices
        # then, which are changed in place. Rows that are alike keep their order.
        chosen.sort(key=lambda each: each[0], reverse=True)
        rows = [row for _, row, _ in chosen]
        self.sequences = [sequence for _, _, sequence in chosen]
        """Those that are not plain greedy."""
        self.is_all = len(rows) == len(sequences)
        """Whether no row is plain greedy."""
        self.rows: Tensor | None = None
        """int64[sequences]: their rows in the logits; None where they are all rows in order, or none."""
        if rows and rows != list(range(len(sequences))):
            self.rows = to_device(device, rows)
        self.sampled = sum(active >> len(processors) for active, _, _ in chosen)
        """So many of `sequences`, the first, are sampled."""
        self.noise_keys: NoiseKeys | None = None
        """Those of the sampled sequences, if there are any."""
        if self.sampled:
            starts = [(each.sequence.seed, each.position) for each in self.sequences[: self.sampled]]
            self.noise_keys = NoiseKeys(starts)
        self.groups: list[Group] = []
        """In order of application."""
        masks = [active for active, _, _ in chosen]
        kinds = set(masks)
        for index, processor in enumerate(processors):
            bit = 1 << index
            if any(mask & bit for mask in kinds):
                members = [row for row, mask in enumerate(masks) if mask & bit]
                parameters = processor.gather([self.sequences[row] for row in members], device)
                self.groups.append(Group(processor, rows_on(device, members), parameters))
        self.counted: tuple[Rows, Tensor] | None = None
        """Those of `sequences` whose tokens are counted, with their slots in the table."""
        if members := [row for row, each in enumerate(self.sequences) if each.counts_output]:
            slots = output_counts.slots([self.sequences[row].request_id for row in members], device)
            self.counted = rows_on(device, members), slots
        ahead = (limit - each.position for each in self.sequences for limit, _ in each.limits)
        self.steps: float = min((steps for steps in ahead if steps > 0), default=math.inf)
        """For so many steps all groups stay as they are."""
