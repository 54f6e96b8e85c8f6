"""The engine for multimodal models: sequences join and leave at any step, with keys and values in a paged cache.

Megatron Core's engine embeds tokens itself and has one position per token, so such models cannot run in it. A step here
is one forward pass over all running sequences, packed one after another: the whole prompts of sequences that join, and
one token of each other sequence. Only attention distinguishes sequences (`attention.py`).
"""

import asyncio
import time
from collections import deque

import numpy as np
import torch
from torch import Tensor

from ....common.protocol import SequenceRequest
from ....common.settings import Settings
from ..api import StepResult, end_ids, why_impossible
from ..kv_size import kv_cache_gib
from ..memory import ModelSizes, tokens_per_step
from ..sampling import Sampler
from ..text import Images, Prompt, TextCodec
from .attention import Batch
from .kv_cache import KVCache
from .loaded import LoadedMultimodalModel
from .pipeline import MicroBatch, Pipeline
from .positions import positions_of
from .sequences import Chosen, LogProbs, RunningSequence


class MultimodalEngine:
    """One rank's engine for multimodal models; see `Engine`."""

    def __init__(self, loaded: LoadedMultimodalModel, settings: Settings, codec: TextCodec):
        self.slots = settings.max_requests
        self.loop = asyncio.new_event_loop()
        self._model = loaded.model
        self._codec = codec
        self._eos_ids = loaded.eos_ids
        self._vocab_size = loaded.vocab_size
        self._max_sequence_length = settings.max_sequence_length
        self._max_step_tokens = tokens_per_step(settings)
        """Prompts that would exceed it wait for the next step."""
        self._micro_batch_tokens = settings.inference_batch_times_seqlen_threshold
        parameter = next(loaded.model.model.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype
        self._sampler = Sampler(loaded.vocab_size, loaded.eos_ids)
        self._cache = self._make_cache(settings)
        self._pipeline = Pipeline(loaded.model, self._device)
        self._waiting: deque[RunningSequence] = deque()
        self._running: dict[int, RunningSequence] = {}
        self._watched: dict[int, int] = {}
        """Sequences whose tokens are reported after every step, with how many were reported."""

    @property
    def kv_cache_usage(self) -> float:
        """See `Engine.kv_cache_usage`."""
        return self._cache.usage

    @property
    def has_work(self) -> bool:
        """See `Engine.has_work`."""
        return bool(self._running or self._waiting)

    def why_impossible(self, prompt: Prompt, sequence: SequenceRequest) -> str | None:
        """See `Engine.why_impossible`."""
        return why_impossible(
            prompt.tokens,
            sequence,
            max_sequence_length=self._max_sequence_length,
            vocab_size=self._vocab_size,
            room=self._cache.room,
        )

    def add(self, request_id: int, sequence: SequenceRequest, prompt: Prompt, *, watch: bool) -> None:
        """See `Engine.add`."""
        limit = min(sequence.max_length, self._max_sequence_length - len(prompt.tokens))
        self._sampler.add(request_id, sequence, prompt.tokens, self._device)
        ends = frozenset(end_ids(sequence, self._eos_ids))
        self._waiting.append(RunningSequence(request_id, sequence, prompt, limit, ends))
        if watch:
            self._watched[request_id] = 0

    def finish(self, request_id: int) -> bool:
        """See `Engine.finish`."""
        for waiting in self._waiting:
            if waiting.id == request_id:
                self._waiting.remove(waiting)
                self._sampler.remove(request_id)
                self._watched.pop(request_id, None)
                return True
        if request_id in self._running:
            self._running[request_id].ending = True
        return False

    async def step(self) -> StepResult:
        """See `Engine.step`."""
        self._admit()
        sequences = [sequence for sequence in self._running.values() if not sequence.ending]
        if sequences:
            with torch.inference_mode():
                chosen = self._choose(sequences, self._pipeline.forward(self._micro_batches(sequences)))
            now = time.monotonic()
            for sequence, each in zip(sequences, chosen, strict=True):
                sequence.take(each, now)
        return self._result(time.monotonic())

    def dummy_step(self) -> None:
        """Do nothing: replicas of these models exchange nothing."""

    def _make_cache(self, settings: Settings) -> KVCache:
        attentions = [layer.self_attention for layer in self._model.language_model.decoder.layers]
        first = attentions[0]
        heads, size = first.num_query_groups_per_partition, first.hidden_size_per_attention_head
        token_bytes = 2 * len(attentions) * heads * size * self._dtype.itemsize
        sizes = ModelSizes.of(self._model.language_model.config, self._vocab_size)
        gib = kv_cache_gib(settings, token_bytes, sizes, self._device)
        cache = KVCache(len(attentions), heads, size, gib * 2**30, self._dtype, self._device)
        self._model.attend_over(cache)
        return cache

    def _admit(self) -> None:
        """Admit waiting sequences in order, while there are slots, free blocks and tokens left in this step."""
        tokens = len(self._running)
        while self._waiting and len(self._running) < self.slots and self._cache.fits(self._waiting[0].length):
            tokens += len(self._waiting[0].prompt.tokens)
            if tokens > self._max_step_tokens and self._running:
                break
            sequence = self._waiting.popleft()
            self._cache.take(sequence.id, sequence.length)
            self._running[sequence.id] = sequence

    def _micro_batches(self, sequences: list[RunningSequence]) -> list[MicroBatch]:
        """Pack sequences; with several stages, in parts of at most `inference_batch_times_seqlen_threshold` tokens."""
        parts: list[list[RunningSequence]] = [[]]
        size = 0
        for sequence in sequences:
            tokens = len(sequence.span)
            if self._pipeline.stages > 1 and parts[-1] and 0 < self._micro_batch_tokens < size + tokens:
                parts.append([])
                size = 0
            parts[-1].append(sequence)
            size += tokens
        return [self._pack(part) for part in parts]

    def _pack(self, sequences: list[RunningSequence]) -> MicroBatch:
        positions, logits_of, images = [], [], []
        end = 0
        for sequence in sequences:
            end += len(sequence.span)
            logits_of.append(torch.arange(end - sequence.logits_wanted, end))
            positions.append(self._positions(sequence))
            if not sequence.tokens and sequence.prompt.images is not None and self._pipeline.is_first:
                images.append(self._patches(sequence.prompt.images))
        return MicroBatch(
            tokens=torch.tensor(
                [token for sequence in sequences for token in sequence.step_tokens], device=self._device
            ),
            positions=torch.cat(positions, dim=1)[:, None].to(self._device),
            logits_of=torch.cat(logits_of).to(self._device),
            batch=Batch([sequence.span for sequence in sequences], self._cache, self._device),
            images=tuple(images),
        )

    def _positions(self, sequence: RunningSequence) -> Tensor:
        if sequence.tokens:
            return torch.full((3, 1), sequence.next_position + len(sequence.tokens) - 1)
        grids = sequence.prompt.images.grids if sequence.prompt.images is not None else []
        positions, sequence.next_position = positions_of(
            sequence.prompt.tokens, grids, self._model.image_token, self._model.merge_size
        )
        return positions

    def _patches(self, images: Images) -> tuple[Tensor, Tensor]:
        values = np.frombuffer(images.patches, dtype=np.float32).reshape(-1, images.patch_size)
        patches = torch.tensor(values).to(self._device, self._dtype)
        return patches, torch.tensor(images.grids, device=self._device)

    def _choose(self, sequences: list[RunningSequence], logits: Tensor | None) -> list[Chosen]:
        """Sample on the last stage and share the tokens with the others."""
        tokens = None
        ends = torch.tensor([sequence.logits_wanted for sequence in sequences]).cumsum(0)
        if logits is not None:
            tokens = self._sampler.sample(logits[(ends - 1).to(logits.device)], [sequence.id for sequence in sequences])
        sampled = self._pipeline.share_tokens(tokens, len(sequences))
        if not any(sequence.wants_log_probs for sequence in sequences):
            return [Chosen(token) for token in sampled]
        log_probs = None
        if logits is not None:
            parts = logits.split([sequence.logits_wanted for sequence in sequences])
            log_probs = [self._log_probs(*each) for each in zip(sequences, parts, sampled, strict=True)]
        shared = self._pipeline.share_object(log_probs)
        return [Chosen(token, each) for token, each in zip(sampled, shared, strict=True)]

    def _log_probs(self, sequence: RunningSequence, logits: Tensor, token: int) -> LogProbs:
        """Return log-probabilities of the tokens that follow those of `logits`.

        Args:
            sequence: the tokens' sequence.
            logits: (tokens, vocabulary), of the last tokens of its part of the step.
            token: the new one.
        """
        if not sequence.wants_log_probs:
            return LogProbs()
        values = logits[:, : self._vocab_size].float().log_softmax(-1)
        following = [*sequence.step_tokens[len(sequence.step_tokens) - len(logits) + 1 :], token]
        chosen = values[torch.arange(len(values)), torch.tensor(following, device=values.device)].tolist()
        if not sequence.sequence.top_logprobs:
            return LogProbs(chosen)
        best = values.topk(sequence.sequence.top_logprobs, dim=-1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        top = [
            {self._codec.spell(token): value for token, value in zip(tokens, each, strict=True)}
            for tokens, each in pairs
        ]
        return LogProbs(chosen, top)

    def _result(self, now: float) -> StepResult:
        result = StepResult()
        for sequence in list(self._running.values()):
            over = sequence.ending or len(sequence.tokens) >= sequence.limit or sequence.tokens[-1] in sequence.end_ids
            if sequence.id in self._watched:
                result.tokens[sequence.id] = sequence.tokens[self._watched[sequence.id] :]
                self._watched[sequence.id] = len(sequence.tokens)
            if over:
                result.finished[sequence.id] = sequence.finished(now)
                del self._running[sequence.id]
                self._watched.pop(sequence.id, None)
                self._cache.give_back(sequence.id)
                self._sampler.remove(sequence.id)
        return result
