"""Compute a rank's GPU memory beside the weights, and the size of its KV cache.

`trgen build` predicts with the same functions that the ranks use after loading. Standard library only.
"""

from dataclasses import dataclass, fields
from typing import Any, Self

from ...common.settings import Dtype, Settings

GIB = 2**30

CONTEXT_BYTES = GIB
"""In use after loading beside the weights: the CUDA context, loaded kernels, NCCL communicators."""
_WORKSPACE_BYTES = GIB // 2
"""Allocated by the first steps: workspaces of matrix products and attention, fragmentation."""
_CUDA_GRAPH_BYTES = GIB
"""Of recorded steps."""
_LEAST_STEP_TOKENS = 16384
"""Megatron Core's own default of `max_tokens`."""
_BYTES_PER_LOGIT = 48
"""While sequences are sampled: float32 logits, their sorted copies, and noise, made from int64."""
KV_BLOCK_TOKENS = 256
"""Tokens of a block of the KV cache, as FlashAttention reads it fastest."""
SMALL_KV_BLOCK_TOKENS = 64
"""Tokens of a block where FlashMLA reads it (megatron-core 0.19.2, dynamic_context.py:297 asserts it), of the cache of
multimodal models, and on a CPU, where large blocks would waste much of a small cache."""
GATHERED_TOKENS = 2**16
"""Cached tokens whose keys and values a multimodal model copies at a time, unless one sequence has more."""
_IMAGE_TOKEN = 4 * (3 * 1280 + 4 * 5120)
"""Values of an image's token in the vision tower: 4 patches of at most 1280, 5120 in Qwen's feed-forward network."""


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """Sizes of a whole language model, under the names that Megatron's `TransformerConfig` has for them."""

    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    kv_channels: int
    num_moe_experts: int
    """0 means a dense model."""
    moe_ffn_hidden_size: int
    moe_router_topk: int
    vocab_size: int

    @classmethod
    def of(cls, source: Any, vocab_size: int) -> Self:
        """Return the sizes of an object that has them as attributes, where None stands for 0."""
        names = [field.name for field in fields(cls) if field.name != "vocab_size"]
        return cls(vocab_size=vocab_size, **{name: getattr(source, name, None) or 0 for name in names})


def kv_block_tokens(*, multimodal: bool, latents: bool, on_gpu: bool) -> int:
    """Return the tokens of a block of the KV cache.

    Args:
        multimodal: whether prompts come with images, so that the engine for such models runs it.
        latents: whether the model has multi-latent attention.
        on_gpu: whether the ranks have GPUs.
    """
    return SMALL_KV_BLOCK_TOKENS if multimodal or latents or not on_gpu else KV_BLOCK_TOKENS


def item_size(dtype: Dtype) -> int:
    """Return the bytes of one value."""
    return 4 if dtype == "float32" else 2


def tokens_per_step(settings: Settings) -> int:
    """Return the maximum number of tokens of one forward pass, of prompts and running sequences together."""
    if settings.enable_chunked_prefill:
        return max(settings.chunked_prefill_size, settings.max_requests)
    return max(_LEAST_STEP_TOKENS, settings.max_sequence_length)


def working_bytes(sizes: ModelSizes, settings: Settings) -> int:
    """Return the peak bytes a step needs on one rank, excluding the weights, the KV cache and prompt log-probabilities.

    Counts activations of the longest step, logits and sampling of all sequences, copies of cached keys and values in
    multimodal models, CUDA graphs, and workspaces.
    """
    activations = tokens_per_step(settings) * _token_bytes(sizes, settings)
    logits = settings.max_requests * sizes.vocab_size * _BYTES_PER_LOGIT
    graphs = _CUDA_GRAPH_BYTES if settings.enable_cuda_graphs else 0
    return activations + logits + graphs + _gathered_bytes(sizes, settings) + _WORKSPACE_BYTES


def _gathered_bytes(sizes: ModelSizes, settings: Settings) -> int:
    """Return the bytes of the copies of cached keys and values of one layer; the next layer reuses them."""
    if not settings.multimodal:
        return 0
    heads = -(-(sizes.num_query_groups or sizes.num_attention_heads) // settings.tensor_parallel_size)
    tokens = max(GATHERED_TOKENS, settings.max_sequence_length)
    return 2 * tokens * heads * sizes.kv_channels * item_size(settings.params_dtype)


def _token_bytes(sizes: ModelSizes, settings: Settings) -> int:
    """Return the peak bytes of a token's activations: those of one layer; the next layer reuses them."""
    hidden, ranks = sizes.hidden_size, settings.tensor_parallel_size
    heads = sizes.num_attention_heads + 2 * (sizes.num_query_groups or sizes.num_attention_heads)
    attention = 3 * heads * sizes.kv_channels // ranks  # projected, rotated, attended
    dense = 4 * sizes.ffn_hidden_size // ranks  # both halves of the gated product, its activation, its result
    experts = 0
    if sizes.num_moe_experts:
        expert = 4 * (sizes.moe_ffn_hidden_size or sizes.ffn_hidden_size) // settings.expert_tensor_parallel_size
        experts = sizes.moe_router_topk * (3 * hidden + expert)  # permuted, computed, permuted back
        dense = 0
    stream = 4 * hidden  # the residual stream, its norm, a sublayer's result, their sum
    numbers = stream + max(attention, dense, experts)
    if settings.multimodal:
        numbers = max(numbers, _IMAGE_TOKEN)
    return numbers * item_size(settings.params_dtype)


def kv_cache_bytes(settings: Settings, *, total: int, free: int, working: int) -> int:
    """Return the bytes of the KV cache on a GPU; 0 or less means that no memory is left for it.

    Args:
        settings: the deployment.
        total: bytes of the GPU.
        free: bytes of it after loading.
        working: see `working_bytes`.
    """
    if settings.kv_cache_gib:
        return int(settings.kv_cache_gib * GIB)
    if settings.kv_cache_fraction:
        return int(settings.kv_cache_fraction * free)
    return int(settings.gpu_memory_utilization * total) - (total - free) - working
