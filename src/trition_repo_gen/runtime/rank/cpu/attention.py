"""Attention over a paged KV cache in plain torch, behind the names of FlashAttention 2 and FlashMLA.

Megatron Core's dynamic engine calls these from `Attention.flash_decode_and_prefill` (megatron-core 0.19.2,
core/transformer/attention.py:1022). Signatures follow flash_attn 2.7's `flash_attn_interface.py` and flash_mla's
`flash_mla_interface.py` as far as that caller goes; arguments that only choose between GPU kernels are ignored.

The cache has shape (blocks, block size, KV heads, head size); a row of the block table names the blocks that hold one
sequence, in order. Causal masks are aligned to the bottom right: the last query sees the last key.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..engines.batching import batches
from .dense import NO_WINDOW, attend

_BATCH_BYTES = 1 << 19
"""Keys gathered at a time: fits a core's second-level cache with the values; measured twice as fast as 4 MiB."""


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = NO_WINDOW,
    block_table: Tensor | None = None,
    return_attn_probs: bool = False,
    **_: Any,
) -> Any:
    """Attend with sequences of different lengths, laid one after the other.

    Args:
        q: (all queries, heads, head size).
        k: (all keys, KV heads, head size), or the paged cache when there is a block table.
        v: like `k`; its head size may differ.
        cu_seqlens_q: (sequences + 1,) where each sequence's queries begin.
        cu_seqlens_k: (sequences + 1,) the same for keys; only differences are read when there is a block table.
        max_seqlen_q: ignored, as is `max_seqlen_k`.
        max_seqlen_k: see `max_seqlen_q`.
        softmax_scale: default head size ** -0.5.
        causal: whether queries see no later keys.
        window_size: keys visible to the left and to the right of a query; -1 is all.
        block_table: (sequences, blocks) int32, or None.
        return_attn_probs: return `(out, softmax_lse, None)`.

    Returns:
        (all queries, heads, value head size), zero where a sequence has no keys; with `return_attn_probs` the
        log-sum-exp of the scores as well, (heads, all queries) float32.
    """
    starts, key_starts = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    out = q.new_zeros(q.shape[0], q.shape[1], v.shape[-1])
    lse = torch.full((q.shape[1], q.shape[0]), float("-inf")) if return_attn_probs else None
    spans = list(zip(starts, starts[1:], key_starts, key_starts[1:], strict=False))
    single = [i for i, (a, b, c, d) in enumerate(spans) if b - a == 1 and d > c] if block_table is not None else []
    if len(single) > 1:  # the rows that decode while others prefill
        assert block_table is not None
        at = torch.tensor([spans[i][0] for i in single])
        lengths = [spans[i][3] - spans[i][2] for i in single]
        some, some_lse = _decode(
            q[at, None], k, v, block_table[single], lengths, softmax_scale, causal, window_size, return_attn_probs
        )
        out[at] = some[:, 0]
        if lse is not None and some_lse is not None:
            lse[:, at] = some_lse[..., 0].T
    done = set(single) if len(single) > 1 else set()
    for i, (first, last, key_first, key_last) in enumerate(spans):
        if i in done or last <= first or key_last <= key_first:
            continue
        if block_table is not None:
            keys, values = (_pages(cache, block_table[i : i + 1], key_last - key_first, None) for cache in (k, v))
        else:
            keys, values = k[None, key_first:key_last], v[None, key_first:key_last]
        one, one_lse = attend(
            q[None, first:last], keys, values, softmax_scale, causal, window_size, None, return_attn_probs
        )
        out[first:last] = one[0]
        if lse is not None and one_lse is not None:
            lse[:, first:last] = one_lse[0]
    return (out, lse, None) if return_attn_probs else out


def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: None = None,
    v: None = None,
    cache_seqlens: Tensor | None = None,
    block_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = NO_WINDOW,
    return_softmax_lse: bool = False,
    **others: Any,
) -> Any:
    """Attend from a few new tokens per sequence, whose keys are in the cache already.

    Args:
        q: (sequences, new tokens, heads, head size).
        k_cache: (blocks, block size, KV heads, head size).
        v_cache: like `k_cache`.
        k: new keys; only None is supported, as is `v`.
        v: see `k`.
        cache_seqlens: (sequences,) keys in use.
        block_table: (sequences, blocks) int32; entries beyond a sequence's blocks may be anything.
        softmax_scale: default head size ** -0.5.
        causal: whether queries see no later keys.
        window_size: keys visible to the left and to the right of a query; -1 is all.
        return_softmax_lse: return `(out, softmax_lse)`.
        others: options of GPU kernels, ignored.

    Returns:
        (sequences, new tokens, heads, head size), zero for a sequence without keys; with `return_softmax_lse` the
        log-sum-exp as well, (sequences, heads, new tokens) float32.

    Raises:
        NotImplementedError: new keys are given, or rotary embeddings are to be applied (the static engine's call).
    """
    if k is not None or v is not None or others.get("rotary_cos") is not None:
        raise NotImplementedError("The CPU backend reads keys that are in the cache already; it does not append them.")
    assert cache_seqlens is not None and block_table is not None
    out, lse = _decode(
        q, k_cache, v_cache, block_table, cache_seqlens.tolist(), softmax_scale, causal, window_size, return_softmax_lse
    )
    return (out, lse) if return_softmax_lse else out


def flash_mla_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    block_table: Tensor,
    cache_seqlens: Tensor,
    head_dim_v: int,
    tile_scheduler_metadata: object,
    num_splits: object,
    softmax_scale: float | None = None,
    causal: bool = False,
) -> tuple[Tensor, Tensor]:
    """Attend over cached latents (multi-latent attention): the values are the first `head_dim_v` numbers of the keys.

    Args:
        q: (sequences, new tokens, heads, latent size + rotary size).
        k_cache: (blocks, block size, 1, latent size + rotary size).
        block_table: (sequences, blocks) int32.
        cache_seqlens: (sequences,) keys in use.
        head_dim_v: latent size.
        tile_scheduler_metadata: ignored, as is `num_splits`.
        num_splits: see `tile_scheduler_metadata`.
        softmax_scale: default head size ** -0.5.
        causal: whether queries see no later keys.

    Returns:
        (sequences, new tokens, heads, latent size) and the log-sum-exp, (sequences, heads, new tokens) float32.
    """
    lengths = cache_seqlens.tolist()
    out, lse = _decode(
        q, k_cache, None, block_table, lengths, softmax_scale, causal, NO_WINDOW, True, value_size=head_dim_v
    )
    assert lse is not None
    return out, lse


def get_mla_metadata(*_: Any, **__: Any) -> tuple[None, None]:
    """Return FlashMLA's scheduling metadata: there is none on a CPU."""
    return None, None


def _pages(cache: Tensor, table: Tensor, keys: int, unused: Tensor | None) -> Tensor:
    """Gather the first `keys` entries of each row's blocks: (rows, keys, KV heads, head size), zero where unused."""
    size = cache.shape[1]
    count = -(-keys // size)
    found = cache.flatten(1).index_select(0, table[:, :count].flatten())
    if unused is not None:
        found.view(-1, cache[0, 0].numel()).index_fill_(0, unused, 0)
    return found.view(table.shape[0], count * size, *cache.shape[2:])[:, :keys]


def _unused(lengths: Tensor, keys: int, block_size: int) -> Tensor:
    """Return the entries that `_pages` gathers for padding only, counted through all rows.

    Slots that were never written may hold NaN, and no mask helps against NaN * 0.
    """
    position = torch.arange(-(-keys // block_size) * block_size)
    return ((position >= lengths[:, None]) & (position < keys)).flatten().nonzero()[:, 0]


def _decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor | None,
    block_table: Tensor,
    lengths: list[int],
    scale: float | None,
    causal: bool,
    window: tuple[int, int],
    with_lse: bool,
    value_size: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Attend for all rows of a batch at once; without `v_cache` the values are a slice of the keys."""
    rows, queries, heads = q.shape[:3]
    out = q.new_zeros(rows, queries, heads, value_size or (k_cache if v_cache is None else v_cache).shape[-1])
    lse = torch.full((rows, heads, queries), float("-inf")) if with_lse else None
    for batch in batches(lengths, _BATCH_BYTES // k_cache[0, 0].nbytes):
        every = len(batch) == rows
        batch = list(range(rows)) if every else batch
        some = [lengths[row] for row in batch]
        longest = max(some)
        in_use = torch.tensor(some) if min(some) != longest else None
        table = (block_table if every else block_table[batch]).clamp(min=0)
        unused = None if in_use is None else _unused(in_use, longest, k_cache.shape[1])
        keys = _pages(k_cache, table, longest, unused)
        values = keys[..., :value_size] if v_cache is None else _pages(v_cache, table, longest, unused)
        one, one_lse = attend(q if every else q[batch], keys, values, scale, causal, window, in_use, with_lse)
        if every:
            return one, one_lse
        out[batch] = one
        if lse is not None and one_lse is not None:
            lse[batch] = one_lse
    return out, lse
