"""Attention of one new token per sequence over the paged KV cache, in Triton.

FlashAttention 4 on Hopper computes a tile of 128 queries for the few that a KV head has in a decoding step, and cannot
split a long sequence's keys over blocks: for 256 sequences of 200 tokens it takes four times as long as reading the
cache. Here a program reads a share of one sequence's keys of one KV head, for all queries of that head, which it
rotates itself, and a second kernel joins the shares (Flash-Decoding, Dao et al. 2023). The number of shares depends on
the number of sequences only, so that the kernels can be recorded in a CUDA graph.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...kernels.launch import after_the_last, begin_the_next, dependent
from .kernels import Places, RotaryParameters, rotated, store

_TILE = 64
"""Keys that are read at a time; a block of the cache has a multiple of it."""
_PROGRAMS = 264
"""Two for each multiprocessor of a Hopper GPU: fewer would leave some of its bandwidth unused."""
_MOST_SHARES = 16
_WARPS = 4
_STAGES = 2
_LOG2_E = math.log2(math.e)


def can_decode(key_cache: Tensor) -> bool:
    """Return whether `decode` takes a cache of this shape."""
    tokens, size = key_cache.shape[1], key_cache.shape[3]
    return tokens % _TILE == 0 and size in (32, 64, 128, 256)


def decode(
    mixed: Tensor,
    groups: int,
    key_cache: Tensor,
    value_cache: Tensor,
    places: Places,
    rotary: RotaryParameters,
    block_table: Tensor,
    lengths: Tensor,
    scale: float,
    window: int = -1,
) -> Tensor:
    """Do what `rotate_and_store` does for each sequence's newest token, and attend from it to all of the sequence.

    Args:
        mixed: see `rotate_and_store`; one token for each sequence.
        groups: likewise.
        key_cache: likewise.
        value_cache: like `key_cache`, and with its strides.
        places: likewise.
        rotary: likewise.
        block_table: int32[sequences, blocks of a sequence], contiguous in its last dimension.
        lengths: [sequences], tokens of each including the newest; the result of a length of 0 is 0.
        scale: factor of the dot products.
        window: number of earlier tokens to attend to; -1 means all.

    Returns:
        [sequences, 1, heads, head size]
    """
    rows, size = mixed.shape[0], key_cache.shape[-1]
    heads = mixed.shape[1] // size - 2 * groups
    shares = min(_MOST_SHARES, triton.next_power_of_2(max(1, _PROGRAMS // (rows * groups))))
    out = mixed.new_empty(rows, 1, heads, size)
    partial = mixed.new_empty(rows, heads, shares, size, dtype=torch.float32) if shares > 1 else out
    weights = mixed.new_empty(rows, heads, shares, dtype=torch.float32) if shares > 1 else out
    _decode[(rows, groups, shares)](
        mixed,
        key_cache,
        value_cache,
        *places,
        *rotary.arguments(),
        block_table,
        lengths,
        partial,
        weights,
        scale * _LOG2_E,
        block_table.stride(0),
        key_cache.stride(0),
        key_cache.stride(1),
        key_cache.stride(2),
        BLOCK_TOKENS=key_cache.shape[1],
        GROUPS=groups,
        HEADS=heads // groups,
        SIZE=size,
        SHARES=shares,
        WINDOW=window,
        HEADS_BLOCK=max(16, triton.next_power_of_2(heads // groups)),
        TILE=_TILE,
        num_warps=_WARPS,
        num_stages=_STAGES,
        **rotary.constants(),
        **dependent(mixed.device),
    )
    if shares > 1:
        constants = {"HEADS": heads, "SIZE": size, "SHARES": shares, "num_warps": 2}
        _join[(rows, heads)](partial, weights, out, **constants, **dependent(mixed.device))
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _decode(  # type: ignore[no-untyped-def]
    mixed,
    key_cache,
    value_cache,
    blocks,
    slots,
    positions,
    table,
    query_norm,
    key_norm,
    eps,
    block_table,
    lengths,
    partial,
    weights,
    scale,
    table_stride,
    block_stride,
    slot_stride,
    group_stride,
    BLOCK_TOKENS: tl.constexpr,
    GROUPS: tl.constexpr,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    SHARES: tl.constexpr,
    WINDOW: tl.constexpr,
    HEADS_BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    ROTATED: tl.constexpr,
    NORMS: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    begin_the_next(DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    share = tl.program_id(2)
    # The host copied these, and the step's first kernel waited for the copy.
    length = tl.load(lengths + row).to(tl.int32)
    position = tl.load(positions + row).to(tl.int64)
    newest = tl.load(blocks + row).to(tl.int64) * block_stride + tl.load(slots + row).to(tl.int64) * slot_stride
    newest += group * group_stride
    after_the_last(DEPENDENT)

    head = tl.arange(0, HEADS_BLOCK)
    column = tl.arange(0, SIZE)
    inside_heads = head < HEADS
    source = mixed + (row * GROUPS + group) * (HEADS + 2) * SIZE
    rows = source + head[:, None] * SIZE
    inside = inside_heads[:, None] & (column[None, :] < SIZE)
    queries = rotated(rows, column[None, :], inside, position, table, query_norm, eps, SIZE, ROTATED, NORMS)
    queries = queries.to(mixed.dtype.element_ty)
    largest = tl.full([HEADS_BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([HEADS_BLOCK], tl.float32)
    sums = tl.zeros([HEADS_BLOCK, SIZE], tl.float32)
    if share == SHARES - 1:  # the newest token, which no other program reads from the cache
        source += HEADS * SIZE
        key, value = store(
            source,
            key_cache + newest,
            value_cache + newest,
            column[None, :],
            position,
            table,
            key_norm,
            eps,
            SIZE,
            ROTATED,
            NORMS,
        )
        if length > 0:
            largest = tl.sum(queries.to(tl.float32) * key.to(tl.float32), axis=1) * scale
            total += 1.0
            sums += value.to(tl.float32)

    older = tl.maximum(length - 1, 0)
    oldest = 0
    if WINDOW >= 0:
        oldest = tl.maximum(older - WINDOW, 0)
    first_tile = oldest // TILE
    last_tile = tl.where(oldest < older, tl.cdiv(older, TILE), first_tile)
    tiles = tl.cdiv(last_tile - first_tile, SHARES)
    begin = first_tile + share * tiles
    end = tl.minimum(begin + tiles, last_tile)
    for tile in range(begin, end):
        token = tile * TILE + tl.arange(0, TILE)
        block = tl.load(block_table + row * table_stride + tile * TILE // BLOCK_TOKENS).to(tl.int64)
        place = block * block_stride + (token % BLOCK_TOKENS) * slot_stride + group * group_stride
        counts = (token < older) & (token >= oldest)
        keys = tl.load(key_cache + place[:, None] + column[None, :], mask=counts[:, None], other=0.0)
        scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
        scores = tl.where(counts[None, :], scores, float("-inf"))
        larger = tl.maximum(largest, tl.max(scores, axis=1))
        powers = tl.exp2(scores - larger[:, None])
        shrink = tl.exp2(largest - larger)
        values = tl.load(value_cache + place[:, None] + column[None, :], mask=counts[:, None], other=0.0)
        total = total * shrink + tl.sum(powers, axis=1)
        sums = sums * shrink[:, None]
        sums += tl.dot(powers.to(values.dtype), values, input_precision="ieee")
        largest = larger

    averages = sums / tl.where(total > 0, total, 1.0)[:, None]
    heads = (row * GROUPS + group) * HEADS + head
    target = (heads * SHARES + share)[:, None] * SIZE + column[None, :]
    tl.store(partial + target, averages, mask=inside_heads[:, None])
    if SHARES > 1:  # the logarithm of the sum of the share's exponentials
        tl.store(weights + heads * SHARES + share, largest + tl.log2(total), mask=inside_heads)


@triton.jit  # type: ignore[untyped-decorator]
def _join(  # type: ignore[no-untyped-def]
    partial,
    weights,
    out,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    SHARES: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    begin_the_next(DEPENDENT)
    after_the_last(DEPENDENT)
    head = tl.program_id(0).to(tl.int64) * HEADS + tl.program_id(1)
    share = tl.arange(0, SHARES)
    column = tl.arange(0, SIZE)
    logarithms = tl.load(weights + head * SHARES + share)
    largest = tl.max(logarithms, axis=0)
    largest = tl.where(largest == float("-inf"), 0.0, largest)
    powers = tl.exp2(logarithms - largest)
    total = tl.sum(powers, axis=0)
    averages = tl.load(partial + (head * SHARES + share)[:, None] * SIZE + column[None, :])
    joined = tl.sum(averages * powers[:, None], axis=0) / tl.where(total > 0, total, 1.0)
    tl.store(out + head * SIZE + column, joined)
