"""Run Megatron Core's `DynamicInferenceEngine` on one rank, one step at a time."""

import copy
import math
import time
from typing import Any, Self

import torch
from megatron.core.inference.config import AsyncScheduleMode, InferenceConfig, PrefixCachingEvictionPolicy
from megatron.core.inference.contexts.dynamic_context import DynamicInferenceContext
from megatron.core.inference.engines.dynamic_engine import DynamicInferenceEngine
from megatron.core.inference.inference_request import DynamicInferenceRequest, DynamicInferenceRequestRecord, Status
from megatron.core.inference.model_inference_wrappers.gpt.gpt_inference_wrapper import GPTInferenceWrapper
from megatron.core.inference.sampling_params import SamplingParams
from megatron.core.inference.text_generation_controllers.text_generation_controller import TextGenerationController

from ....common.protocol import SequenceRequest
from ....common.settings import Settings, is_on
from ..api import Finished, StepResult, end_ids, why_impossible
from ..kv_size import kv_cache_gib
from ..memory import ModelSizes, tokens_per_step
from ..text import Prompt, TextCodec
from . import upstream
from .joining import Joining
from .loaded import LoadedModel, kv_block_size
from .sampling import CoreSampling

_CUDA_GRAPHS = 16
"""Batch sizes for which a decoding step is recorded, spaced by factors of two."""


class RankEngine:
    """One rank's engine for language models; see `Engine`."""

    def __init__(self, loaded: LoadedModel, settings: Settings, codec: TextCodec):
        config = loaded.model.config
        self.max_sequence_length = settings.max_sequence_length
        self.vocab_size = loaded.vocab_size
        self._eos_ids = loaded.eos_ids
        self._device = next(loaded.model.parameters()).device
        self._sampling = CoreSampling(loaded.vocab_size, loaded.eos_ids)
        self._further_ends: dict[int, list[list[int]]] = {}
        """Tokens that end a sequence beside the first, each as a stop word of one token; of sequences that have any."""
        self._watched: dict[int, int] = {}
        """Sequences whose tokens are reported after every step, with how many were reported."""
        self._tokenless: set[int] = set()
        """Sequences that have no token yet."""
        self._first_token: dict[int, float] = {}
        """When each sequence got its first token, in seconds of the monotonic clock."""
        self._ending: set[int] = set()
        """Sequences to end as soon as the engine allows."""

        max_requests = _round_up(settings.max_requests, settings.tensor_parallel_size)
        sizes = ModelSizes.of(config, loaded.vocab_size)
        self._context = DynamicInferenceContext(
            config,
            InferenceConfig(
                max_sequence_length=settings.max_sequence_length,
                max_requests=max_requests,
                max_tokens=_tokens_per_step(settings, max_requests),
                block_size_tokens=kv_block_size(config),
                buffer_size_gb=kv_cache_gib(settings, _token_bytes(config, settings), sizes, self._device),
                num_cuda_graphs=_CUDA_GRAPHS if config.cuda_graph_impl == "local" else None,
                materialize_only_last_token_logits=True,
                enable_prefix_caching=settings.enable_prefix_caching,
                prefix_caching_eviction_policy=PrefixCachingEvictionPolicy.LRU,
                enable_chunked_prefill=settings.enable_chunked_prefill,
                async_sched_mode=_schedule(settings, self._device),
            ),
        )
        if not config.sequence_parallel:
            upstream.record_few_sequences(self._context, settings.tensor_parallel_size)
        upstream.record_long_steps(self._context, settings.tensor_parallel_size)
        controller = TextGenerationController(
            GPTInferenceWrapper(upstream.logits_in_model_dtype(loaded.model), self._context), _EngineTokenizer(codec)
        )
        upstream.use_sampling(controller, self._sampling)
        self._engine = DynamicInferenceEngine(controller=controller, context=self._context)
        Joining(self._engine).take_over()
        upstream.without_detokenization(self._engine)
        upstream.without_logits_copy(controller, records_graphs=config.cuda_graph_impl == "local")
        upstream.allow_prompt_log_probs(self._engine)

    @property
    def slots(self) -> int:
        """Sequences that can run at the same time; each needs at least one block of the KV cache."""
        return int(min(self._context.max_requests, self._blocks))

    @property
    def loop(self) -> Any:
        """The event loop that `step` has to run in."""
        return self._engine._loop

    @property
    def kv_cache_usage(self) -> float:
        """The share of the KV cache's blocks that is in use, from 0 to 1."""
        return 1.0 - (int(self._context.kv_block_allocator.total_avail) + self._cached_blocks) / self._blocks

    @property
    def has_work(self) -> bool:
        """Whether any sequence is running or waiting here."""
        return bool(self._engine.requests)

    def why_impossible(self, prompt: Prompt, sequence: SequenceRequest) -> str | None:
        """See `Engine.why_impossible`."""
        return why_impossible(
            prompt.tokens,
            sequence,
            max_sequence_length=self.max_sequence_length,
            vocab_size=self.vocab_size,
            room=self._blocks * int(self._context.block_size_tokens),
        )

    def add(self, request_id: int, sequence: SequenceRequest, prompt: Prompt, *, watch: bool) -> None:
        """See `Engine.add`."""
        tokens = prompt.tokens
        self._sampling.add(request_id, sequence, tokens, self._device)
        ends = end_ids(sequence, self._eos_ids)
        if ends[1:]:
            self._further_ends[request_id] = [[token] for token in ends[1:]]
        sampling = _ShallowSamplingParams(
            top_k=1,  # the parameters that count are the sampler's own
            num_tokens_to_generate=min(sequence.max_length, self.max_sequence_length - len(tokens)),
            termination_id=ends[0] if ends else -1,
            return_log_probs=sequence.log_probs or sequence.top_logprobs > 0,
            skip_prompt_log_probs=not _wants_prompt_log_probs(sequence),
            top_n_logprobs=sequence.top_logprobs,
            detokenize_stop_sequence=True,  # keep the token that ended the answer, whichever of `ends` it is
        )
        # The engine's own `add_request` copies tokens to the GPU, and its context copies them back to the host. Both
        # copies make the host wait for the step that runs on the GPU (megatron-core 0.19.2, dynamic_engine.py:1200).
        request = DynamicInferenceRequest(
            request_id=request_id,
            prompt_tokens=torch.tensor(tokens, dtype=torch.int64),
            sampling_params=sampling,
            block_size_tokens=self._context.block_size_tokens,
            enable_prefix_caching=self._context.enable_prefix_caching,
        )
        if _wants_prompt_log_probs(sequence):
            # They are computed from the whole prompt, which must share no blocks of the prefix cache.
            request.precomputed_block_hashes = []
            self._sampling.remember_prompt(request_id, tokens)
        self._engine._add_request(request)
        self._tokenless.add(request_id)
        if watch:
            self._watched[request_id] = 0

    def finish(self, request_id: int) -> bool:
        """See `Engine.finish`."""
        in_context = request_id == self._context.chunked_prefill_request_id
        if request_id in self._engine.waiting_request_ids and not in_context and not self._generated(request_id):
            self._engine.waiting_request_ids.remove(request_id)
            del self._engine.requests[request_id]
            self._sampling.remove(request_id)
            self._further_ends.pop(request_id, None)
            self._tokenless.discard(request_id)
            self._watched.pop(request_id, None)
            return True
        if request_id in self._engine.requests:
            self._ending.add(request_id)
        return False

    async def step(self) -> StepResult:
        """See `Engine.step`."""
        self._prepare_waiting_sequences()
        self._end_sequences()
        self._make_room()
        data = await self._engine.async_step()
        now = time.monotonic()
        result = StepResult()
        for record in data["finished_request_records"]:
            request = _merged(record)
            decode_seconds = now - self._first_token.pop(request.request_id, now)
            result.finished[request.request_id] = _finished(request, decode_seconds)
            self._sampling.remove(request.request_id)
            self._further_ends.pop(request.request_id, None)
        self._tokenless -= result.finished.keys()
        self._ending -= result.finished.keys()
        self._engine.stop_word_finished_request_ids -= result.finished.keys()
        started = {request_id for request_id in self._tokenless if self._generated(request_id)}
        self._tokenless -= started
        self._first_token |= dict.fromkeys(started, now)
        for request_id, given in list(self._watched.items()):
            finished = result.finished.get(request_id)
            tokens = finished.tokens if finished else self._generated(request_id)
            result.tokens[request_id] = tokens[given:]
            self._watched[request_id] = len(tokens)
            if finished:
                del self._watched[request_id]
        return result

    def dummy_step(self) -> None:
        """Take part in the expert-parallel exchanges of a step in which this replica has no sequence."""
        self._engine.controller.dummy_forward()

    @property
    def _blocks(self) -> int:
        """Blocks of the KV cache for sequences; the engine keeps one more for itself."""
        return int(self._context.kv_block_allocator.total_count) - 1

    @property
    def _cached_blocks(self) -> int:
        """Blocks that no sequence uses, kept for prompts with the same prefix."""
        blocks = self._context.kv_block_allocator
        return int(blocks.get_evictable_block_count()) if blocks.enable_prefix_caching else 0

    def _prepare_waiting_sequences(self) -> None:
        """Set the further tokens that end a sequence; the engine drops them when it evicts a sequence."""
        if self._further_ends:
            for request_id in self._engine.waiting_request_ids:
                self._engine.get_request(request_id).stop_word_ids = self._further_ends.get(request_id)

    def _end_sequences(self) -> None:
        """End the sequences to end, except one whose prompt is read in chunks: the engine would drop its mark."""
        ready = self._ending - {self._context.chunked_prefill_request_id}
        self._engine.stop_word_finished_request_ids |= ready
        self._ending -= ready

    def _make_room(self) -> None:
        """Free a cached block for every running sequence that may need one in this step.

        The engine frees them for new sequences only. A running sequence that needs a block is evicted although cached
        blocks could be freed (megatron-core 0.19.2, dynamic_context.py:4427 counts `total_avail` only).
        """
        blocks = self._context.kv_block_allocator
        missing = int(self._context.total_request_count) - int(blocks.total_avail)
        if blocks.enable_prefix_caching and missing > 0 and (cached := self._cached_blocks):
            with torch.inference_mode():  # tensors made while CUDA graphs are recorded cannot be written without it
                blocks.evict_lru_blocks(min(missing, cached))

    def _generated(self, request_id: int) -> list[int]:
        record = self._engine.requests[request_id].record
        return [token for request in record.requests for token in request.generated_tokens]


def _merged(record: DynamicInferenceRequestRecord) -> DynamicInferenceRequest:
    """Return the sequence's parts as one request: the engine makes a part each time it evicts and resumes it."""
    if len(record.requests) == 1:
        return record.requests[0]
    for part in record.requests:
        # None in a part that ended before another token was sampled, and `merge` adds lists only.
        part.generated_log_probs = part.generated_log_probs or []
        part.generated_top_n_logprobs = part.generated_top_n_logprobs or []
    return record.merge()


def _finished(request: DynamicInferenceRequest, decode_seconds: float) -> Finished:
    tokens = request.generated_tokens
    return Finished(
        tokens=tokens,
        # End tokens other than the first are the engine's stop words, which it removes: such a sequence is shorter.
        out_of_tokens=len(tokens) >= request.sampling_params.num_tokens_to_generate,
        decode_seconds=decode_seconds,
        log_probs=request.generated_log_probs or [],
        top_logprobs=request.generated_top_n_logprobs or [],
        prompt_log_probs=request.prompt_log_probs or [],
        prompt_top_logprobs=request.prompt_top_n_logprobs or [],
        failure=_failure(request),
    )


def _failure(request: DynamicInferenceRequest) -> str | None:
    """Return the engine's reason if it refused the request."""
    if request.status != Status.FAILED:
        return None
    reasons = [str(event.payload) for event in request.events if isinstance(event.payload, Exception)]
    return "; ".join(reasons) or "The engine refused the request."


def _wants_prompt_log_probs(sequence: SequenceRequest) -> bool:
    return sequence.echo and (sequence.log_probs or sequence.top_logprobs > 0)


class _ShallowSamplingParams(SamplingParams):  # type: ignore[misc]
    """Numbers only, so that copying them is cheap.

    Megatron Core makes a deep copy for every sequence (0.19.2, inference_request.py:393), which took half of `add`.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copy.copy(self)


class _EngineTokenizer:
    """The part of a tokenizer that the engine uses: the spelling of single tokens in `top_n_logprobs`."""

    eod = None
    bos = None

    def __init__(self, codec: TextCodec):
        self._codec = codec

    def detokenize(self, tokens: list[int]) -> str:
        return "".join(self._codec.spell(token) for token in tokens)


def _schedule(settings: Settings, device: torch.device) -> AsyncScheduleMode:
    overlap = is_on(settings.async_scheduling, on_gpu=device.type == "cuda")
    return AsyncScheduleMode.ASYNC if overlap else AsyncScheduleMode.LEGACY


def _token_bytes(config: Any, settings: Settings) -> int:
    """Return the bytes of a token's keys and values on this rank."""
    heads = max(1, (config.num_query_groups or config.num_attention_heads) // settings.tensor_parallel_size)
    layers = math.ceil(config.num_layers / settings.pipeline_parallel_size)
    return int(2 * layers * heads * config.kv_channels * config.params_dtype.itemsize)


def _tokens_per_step(settings: Settings, max_requests: int) -> int:
    tokens = max(tokens_per_step(settings), max_requests)
    # The engine pads a step's tokens to a multiple of this, beyond the limit if need be.
    return int(DynamicInferenceContext.round_up_tokens(tokens, settings.tensor_parallel_size))


def _round_up(value: int, multiple: int) -> int:
    return math.ceil(value / multiple) * multiple
