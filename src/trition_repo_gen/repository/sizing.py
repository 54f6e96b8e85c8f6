"""What a deployment takes of a GPU's memory, predicted from the checkpoint, and whether it fits."""

import bisect
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from trition_repo_gen import checkpoints
from trition_repo_gen.checkpoints import Checkpoint, Layout
from trition_repo_gen.errors import LayoutError
from trition_repo_gen.repository.shares import stage_layers, stage_weights, vocabulary
from trition_repo_gen.runtime.common.settings import Settings
from trition_repo_gen.runtime.rank.engines import memory

_MOST_RANKS = 64
"""Tensor-parallel ranks that a refusal may propose."""
_HIGHEST_UTILIZATION = 0.97
"""That a refusal may propose."""


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """What the fullest rank takes of its GPU, in bytes, and what its KV cache holds, in tokens."""

    weights: int
    is_exact: bool
    """Whether `weights` comes from every weight's shape."""
    working: int
    """CUDA's context, activations, logits, CUDA graphs, workspaces; the most that serving needs."""
    gpu: int | None
    """The GPU's memory; None where nobody knows."""
    kv_cache: int | None
    """None where that depends on a GPU that nobody knows; not above 0 where nothing is left."""
    kv_cache_is_given: bool
    """Whether the user chose its size."""
    token_bytes: int
    """Of a token's keys and values."""
    block_size: int
    spare_blocks: int
    """Blocks of the KV cache that no request gets."""
    max_sequence_length: int
    max_requests: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.working + max(self.kv_cache or 0, 0)

    @property
    def tokens(self) -> int:
        """What the KV cache has room for."""
        blocks = (self.kv_cache or 0) // (self.block_size * self.token_bytes) - self.spare_blocks
        return max(blocks, 0) * self.block_size

    @property
    def requests(self) -> int:
        """Requests of full length that the KV cache has room for at the same time."""
        return self.tokens // self._sequence

    def room_for(self, requests: int) -> int:
        """Return the bytes of a KV cache for so many requests of full length."""
        return (requests * self._sequence + self.spare_blocks * self.block_size) * self.token_bytes

    @property
    def fits(self) -> bool:
        """Whether, for all that is known, the KV cache takes a request of full length and the GPU one of that size."""
        if self.kv_cache is not None and self.requests < 1:
            return False
        return self.gpu is None or not self.kv_cache_is_given or self.total <= self.gpu

    @property
    def _sequence(self) -> int:
        """Tokens of the blocks that a request of full length has."""
        return math.ceil(self.max_sequence_length / self.block_size) * self.block_size


def predict(checkpoint: Checkpoint, layout: Layout, settings: Settings, gpu: int | None) -> Sizing:
    """Return what a deployment takes of each GPU.

    Args:
        checkpoint: what is served.
        layout: with every size chosen.
        settings: the deployment, of the same layout.
        gpu: bytes of the GPU; None where nobody knows.
    """
    item_size = memory.item_size(settings.params_dtype)
    weights = max(stage_weights(checkpoint, layout, item_size))
    steps = memory.working_bytes(memory.ModelSizes.of(checkpoint, vocabulary(checkpoint, layout)), settings)
    kv_cache = int(settings.kv_cache_gib * memory.GIB) or None
    if kv_cache is None and gpu is not None:
        free = gpu - weights - memory.CONTEXT_BYTES
        kv_cache = memory.kv_cache_bytes(settings, total=gpu, free=free, working=steps)
    return Sizing(
        weights=weights,
        is_exact=bool(checkpoint.shapes) and not checkpoint.multimodal,
        working=memory.CONTEXT_BYTES + steps,
        gpu=gpu,
        kv_cache=kv_cache,
        kv_cache_is_given=bool(settings.kv_cache_gib),
        token_bytes=max(stage_layers(checkpoint, layout)) * _layer_bytes(checkpoint, layout, item_size),
        block_size=memory.kv_block_tokens(
            multimodal=checkpoint.multimodal, latents=checkpoint.multi_latent_attention, on_gpu=True
        ),
        spare_blocks=0 if checkpoint.multimodal else 1,
        max_sequence_length=settings.max_sequence_length,
        max_requests=settings.max_requests,
    )


def _layer_bytes(checkpoint: Checkpoint, layout: Layout, item_size: int) -> int:
    """Return what a token takes in one layer's KV cache; with more ranks than KV heads each has one of them."""
    if checkpoint.kv_latent_size:
        return checkpoint.kv_latent_size * item_size
    heads = max(checkpoint.num_query_groups // layout.tensor_parallel_size, 1)
    return 2 * heads * checkpoint.kv_channels * item_size


def require_fit(sizing: Sizing, checkpoint: Checkpoint, layout: Layout, settings: Settings, where: str) -> None:
    """Refuse what the GPU cannot hold, and a KV cache that cannot hold a request of full length.

    Args:
        sizing: of the rest.
        checkpoint: what is served.
        layout: with every size chosen.
        settings: the deployment.
        where: whose memory it is, as the beginning of a sentence.

    Raises:
        LayoutError: it cannot; the text has the flags with which it could.
    """
    if sizing.kv_cache_is_given and sizing.requests < 1:
        raise LayoutError(_too_small(sizing, settings))
    if sizing.fits or sizing.gpu is None:
        return
    sequence = "" if settings.kv_cache_gib else f" for one request of {settings.max_sequence_length} tokens"
    kv_cache = sizing.kv_cache if settings.kv_cache_gib else sizing.room_for(1)
    instead = list(_instead(checkpoint, layout, settings, sizing.gpu))
    raise LayoutError(
        f"{where} {binary(sizing.gpu)}{_allowed(settings)}, too little for {binary(sizing.weights)} of weights, "
        f"{binary(sizing.working)} of working memory and {binary(kv_cache or 0)} of KV cache{sequence}; write "
        f"{' or '.join(instead) or '--gpu-memory-gib with the memory of larger GPUs, and serve it there'}."
    )


def binary(size: int) -> str:
    """Return a number of bytes for people, in the largest unit of which there is at least one."""
    units = ("B", "KiB", "MiB", "GiB")
    power = min(max(size.bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{size / 1024**power:.1f}".removesuffix(".0") + f" {units[power]}"


def _too_small(sizing: Sizing, settings: Settings) -> str:
    """Return the sentence about a given KV cache that no request of full length has room in."""
    instead = f"--kv-cache-gib {math.ceil(sizing.room_for(1) / memory.GIB * 100) / 100}"
    if sizing.tokens:
        instead += f" or --inference-max-seq-length {sizing.tokens}"
    return (
        f"--kv-cache-gib {settings.kv_cache_gib} has room for {sizing.tokens} tokens, too few for one request of "
        f"{settings.max_sequence_length}; write {instead}."
    )


def _allowed(settings: Settings) -> str:
    if settings.kv_cache_gib:
        return ""
    if settings.kv_cache_fraction:
        return f" (--kv-cache-fraction {settings.kv_cache_fraction})"
    return f" (--gpu-memory-utilization {settings.gpu_memory_utilization})"


def _instead(checkpoint: Checkpoint, layout: Layout, settings: Settings, gpu: int) -> Iterator[str]:
    """Yield the flags, each with a value, of which any one alone lets it fit."""

    def fits(layout: Layout = layout, **changes: object) -> bool:
        return predict(checkpoint, layout, replace(settings, **changes), gpu).fits  # type: ignore[arg-type]

    for ranks in range(layout.tensor_parallel_size + 1, _MOST_RANKS + 1):
        wider = _with_tensor_ranks(checkpoint, layout, ranks)
        sizes = {"tensor_parallel_size": ranks}
        if wider and fits(wider, **sizes, expert_tensor_parallel_size=wider.expert_tensor_parallel_size):
            yield f"--tensor-parallel-size {ranks}"
            break
    if settings.params_dtype == "float32" and fits(params_dtype="bfloat16"):
        yield "--params-dtype bfloat16"
    if settings.kv_cache_gib:
        tenths = range(int(settings.kv_cache_gib * 10), 0, -1)
        smaller = next((number / 10 for number in tenths if fits(kv_cache_gib=number / 10)), None)
        if smaller:
            yield f"--kv-cache-gib {smaller}"
        return
    lengths = range(settings.max_sequence_length // 256 * 256, 0, -256)
    # From the longest to the shortest it fits from some point on.
    if shorter := lengths[bisect.bisect_left(lengths, True, key=lambda tokens: fits(max_sequence_length=tokens)) :]:
        yield f"--inference-max-seq-length {shorter[0]}"
    if not settings.kv_cache_fraction:
        hundredths = range(int(settings.gpu_memory_utilization * 100) + 1, int(_HIGHEST_UTILIZATION * 100) + 1)
        higher = next((share / 100 for share in hundredths if fits(gpu_memory_utilization=share / 100)), None)
        if higher:
            yield f"--gpu-memory-utilization {higher}"


def _with_tensor_ranks(checkpoint: Checkpoint, layout: Layout, ranks: int) -> Layout | None:
    """Return the layout with so many tensor-parallel ranks, None where the model cannot be sharded like that."""
    experts = layout.expert_tensor_parallel_size if layout.expert_parallel_size > 1 else 0
    wider = replace(layout, tensor_parallel_size=ranks, expert_tensor_parallel_size=experts, num_gpus=0)
    try:
        return checkpoints.check(checkpoint, wider)[0]
    except LayoutError:
        return None
