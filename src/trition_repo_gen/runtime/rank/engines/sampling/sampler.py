"""The sampler: chooses the next token of every sequence of a step."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ....common.protocol import SequenceRequest
from .api import LogitsProcessor, SamplerContext, StatefulProcessor
from .argmax import argmax
from .batch import Batch, TrackedSequence
from .random import gumbel_noise
from .registry import PROCESSORS
from .token_table import TokenTable


class Sampler:
    """Chooses the sequences' next tokens.

    Args:
        vocab_size: tokens that the tokenizer knows; the model's padding beyond them is never sampled.
        eos_ids: tokens that end a sequence, which it does not take before it has `min_length` others.
        processors: the sampling parameters, in order of application.
    """

    def __init__(
        self,
        vocab_size: int,
        eos_ids: Sequence[int] = (),
        processors: Sequence[type[LogitsProcessor[Any]]] = PROCESSORS,
    ):
        self._vocab_size = vocab_size
        self._output_counts = TokenTable(vocab_size, torch.int32)
        context = SamplerContext(vocab_size, tuple(eos_ids), self._output_counts)
        self._processors = [processor(context) for processor in processors]
        self._sequences: dict[int, TrackedSequence] = {}
        """Those that are not plain greedy."""
        self._batch: Batch | None = None
        """That of the last step, unless sequences came or left since."""
        self._batch_key: tuple[list[int], int] = ([], -1)
        """Request ids and unfinished request of `_batch`."""

    def add(
        self, request_id: int, sequence: SequenceRequest, prompt_tokens: Iterable[int], device: torch.device
    ) -> None:
        """Sample request `request_id` by the parameters of `sequence`."""
        greedy = sequence.greedy
        applied = [
            (1 << index, processor)
            for index, processor in enumerate(self._processors)
            if not (greedy and processor.only_sampled) and processor.applies_to(sequence)
        ]
        if greedy and not applied:
            return
        tracked = TrackedSequence(request_id, sequence)
        tracked.processors = sum(bit for bit, _ in applied) | (not greedy) << len(self._processors)
        for bit, processor in applied:
            if (limit := processor.last_position(sequence)) < math.inf:
                tracked.limits.append((limit, bit))
            if isinstance(processor, StatefulProcessor):
                tracked.stateful.append(processor)
                processor.add(tracked, list(prompt_tokens), device)
            tracked.counts_output |= processor.counts_output
        if tracked.counts_output:
            self._output_counts.add(request_id, device)
        self._sequences[request_id] = tracked
        self._batch = None

    def remove(self, request_id: int) -> None:
        """Forget a request that ended."""
        tracked = self._sequences.pop(request_id, None)
        if tracked is None:
            return
        for processor in tracked.stateful:
            processor.remove(tracked)
        if tracked.counts_output:
            self._output_counts.remove(request_id)
        self._batch = None

    def sample(self, logits: Tensor, request_ids: Sequence[int], unfinished: int = -1) -> Tensor:
        """Choose one token per sequence.

        Args:
            logits: [sequences, at least the vocabulary], of any floating-point type; left as they are.
            request_ids: one for each sequence; one that was not added is sampled greedily.
            unfinished: a request of which only a part of the prompt was read. Its token is not
                used: it is the largest logit's, whatever the request's parameters.

        Returns:
            int64[sequences]
        """
        logits = logits[:, : self._vocab_size]
        batch = self._batch_for(request_ids, unfinished, logits.device)
        if not batch.sequences:
            return argmax(logits)
        values = logits.to(torch.float32, copy=True) if batch.rows is None else logits[batch.rows].float()
        for group in batch.groups:
            part = values[group.rows]
            group.processor.apply(part, group.parameters)
            if not isinstance(group.rows, slice):
                values[group.rows] = part
        if batch.noise_keys is not None:
            values[: batch.sampled] += gumbel_noise(batch.noise_keys.take(values.device), self._vocab_size)
        chosen = argmax(values)
        self._accept(batch, chosen)
        if batch.rows is None:
            return chosen
        tokens = torch.empty_like(chosen) if batch.is_all else argmax(logits)
        tokens[batch.rows] = chosen
        return tokens

    def _batch_for(self, request_ids: Sequence[int], unfinished: int, device: torch.device) -> Batch:
        key = (list(request_ids), unfinished)
        if self._batch is None or self._batch.steps <= 0 or self._batch_key != key:
            sequences = [None if id_ == unfinished else self._sequences.get(id_) for id_ in request_ids]
            self._batch = Batch(sequences, self._processors, self._output_counts, device)
            self._batch_key = key
        return self._batch

    def _accept(self, batch: Batch, tokens: Tensor) -> None:
        """Tell the processors which tokens the sequences of the batch take, int64[sequences]."""
        for group in batch.groups:
            if isinstance(group.processor, StatefulProcessor):
                group.processor.accept(tokens[group.rows], group.parameters)
        if batch.counted is not None:
            rows, slots = batch.counted
            self._output_counts.values[slots, tokens[rows]] += 1
        for sequence in batch.sequences:
            sequence.position += 1
        batch.steps -= 1
