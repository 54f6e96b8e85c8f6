"""Triton kernels for what lies between a layer's matrix products. All compute in float32 and round once.

With TRITON_INTERPRET=1 they run on a CPU as well, slowly.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import after_the_last, begin_the_next, dependent

_SILU_BLOCK = 1024


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale each row to a root mean square of one, then by `weight` (Zhang and Sennrich 2019).

    Args:
        x: [rows, columns], contiguous.
        weight: [columns]
        eps: added to the mean square.

    Returns:
        [rows, columns]
    """
    rows, columns = x.shape
    out = torch.empty_like(x)
    block = triton.next_power_of_2(columns)
    _rms_norm[(rows,)](
        x, weight, out, columns, eps, BLOCK=block, num_warps=max(4, min(16, block // 512)), **dependent(x.device)
    )
    return out


def silu_mul(x: Tensor) -> Tensor:
    """Return SiLU of the first half of each row, times its second half.

    Args:
        x: [rows, 2 * columns], contiguous.

    Returns:
        [rows, columns]
    """
    rows, columns = x.shape[0], x.shape[1] // 2
    out = x.new_empty(rows, columns)
    _silu_mul[(rows, triton.cdiv(columns, _SILU_BLOCK))](x, out, columns, BLOCK=_SILU_BLOCK, **dependent(x.device))
    return out


def rotate_and_store(
    mixed: Tensor,
    groups: int,
    key_cache: Tensor,
    value_cache: Tensor,
    blocks: Tensor,
    slots: Tensor,
    positions: Tensor,
    table: Tensor | None,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    eps: float,
) -> Tensor:
    """Take queries, keys and values apart, turn queries and keys by their positions, put keys and values in the cache.

    Args:
        mixed: [tokens, columns], contiguous: for each group its queries' heads, its key's and its value's.
        groups: KV heads.
        key_cache: [blocks, tokens per block, groups, head size]
        value_cache: like `key_cache`.
        blocks: [tokens] the cache's block of each token.
        slots: [tokens] its place there.
        positions: [tokens] its place in its sequence.
        table: float32[positions, rotated size]: cosines, then sines, of the first half of what is rotated, whose halves
            belong together (Su et al. 2021, as in GPT-NeoX); None rotates nothing.
        query_norm: [head size] weights of an RMS norm over each head of the queries, or None; likewise `key_norm`.
        key_norm: see `query_norm`.
        eps: of these norms.

    Returns:
        queries, [tokens, 1, heads, head size]
    """
    tokens, size = mixed.shape[0], key_cache.shape[-1]
    heads = mixed.shape[1] // size // groups - 2  # queries of a group
    query = mixed.new_empty(tokens, 1, groups * heads, size)
    rotated = 0 if table is None else table.shape[1]
    _rotate_and_store[(tokens, groups)](
        mixed,
        query,
        key_cache,
        value_cache,
        blocks,
        slots,
        positions,
        table,
        query_norm,
        key_norm,
        eps,
        key_cache.stride(0),
        key_cache.stride(1),
        key_cache.stride(2),
        GROUPS=groups,
        HEADS=heads,
        SIZE=size,
        ROTATED=rotated,
        NORMS=query_norm is not None,
        HEADS_BLOCK=triton.next_power_of_2(heads + 1),
        HALF_BLOCK=triton.next_power_of_2(max(1, rotated // 2)),
        REST_BLOCK=triton.next_power_of_2(max(1, size - rotated)),
        SIZE_BLOCK=triton.next_power_of_2(size),
        num_warps=4,
        **dependent(mixed.device),
    )
    return query


@triton.jit  # type: ignore[untyped-decorator]
def _rms_norm(x, weight, out, columns, eps, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < columns
    begin_the_next(DEPENDENT)
    after_the_last(DEPENDENT)
    values = tl.load(x + row * columns + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, axis=0) / columns + eps)
    factors = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * columns + column, values * scale * factors, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _silu_mul(x, out, columns, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    begin_the_next(DEPENDENT)
    after_the_last(DEPENDENT)
    gate = tl.load(x + row * 2 * columns + column, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(x + row * 2 * columns + columns + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * columns + column, gate * tl.sigmoid(gate) * value, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _rotate_and_store(  # type: ignore[no-untyped-def]
    mixed,
    query,
    key_cache,
    value_cache,
    blocks,
    slots,
    positions,
    table,
    query_norm,
    key_norm,
    eps,
    block_stride,
    slot_stride,
    group_stride,
    GROUPS: tl.constexpr,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    ROTATED: tl.constexpr,
    NORMS: tl.constexpr,
    HEADS_BLOCK: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    REST_BLOCK: tl.constexpr,
    SIZE_BLOCK: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    begin_the_next(DEPENDENT)
    after_the_last(DEPENDENT)
    token = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    source = mixed + (token * GROUPS + group) * (HEADS + 2) * SIZE
    cached = tl.load(blocks + token).to(tl.int64) * block_stride + tl.load(slots + token).to(tl.int64) * slot_stride
    cached += group * group_stride

    whole = tl.arange(0, SIZE_BLOCK)
    value = tl.load(source + (HEADS + 1) * SIZE + whole, mask=whole < SIZE)
    tl.store(value_cache + cached + whole, value, mask=whole < SIZE)

    # Below, rows are the group's queries and, after them, its key.
    head = tl.arange(0, HEADS_BLOCK)[:, None]
    is_query = head < HEADS
    is_key = head == HEADS
    target = query + (token * GROUPS + group) * HEADS * SIZE + head * SIZE
    key_target = key_cache + cached + head * 0

    half = tl.arange(0, HALF_BLOCK)[None, :]
    rest = ROTATED + tl.arange(0, REST_BLOCK)[None, :]
    in_half = (head <= HEADS) & (half < ROTATED // 2)
    in_rest = (head <= HEADS) & (rest < SIZE)
    first = tl.load(source + head * SIZE + half, mask=in_half, other=0.0).to(tl.float32)
    second = tl.load(source + head * SIZE + ROTATED // 2 + half, mask=in_half, other=0.0).to(tl.float32)
    other = tl.load(source + head * SIZE + rest, mask=in_rest, other=0.0).to(tl.float32)
    if NORMS:
        squares = tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1) + tl.sum(other * other, axis=1)
        scale = tl.rsqrt(squares / SIZE + eps)[:, None]
        first *= scale * _factors(query_norm, key_norm, is_query, half, in_half)
        second *= scale * _factors(query_norm, key_norm, is_query, ROTATED // 2 + half, in_half)
        other *= scale * _factors(query_norm, key_norm, is_query, rest, in_rest)
    if ROTATED > 0:
        position = tl.load(positions + token).to(tl.int64)
        cosine = tl.load(table + position * ROTATED + half, mask=half < ROTATED // 2, other=0.0)
        sine = tl.load(table + position * ROTATED + ROTATED // 2 + half, mask=half < ROTATED // 2, other=0.0)
        turned = first * cosine - second * sine
        second = second * cosine + first * sine
        first = turned
        tl.store(target + half, first, mask=in_half & is_query)
        tl.store(target + ROTATED // 2 + half, second, mask=in_half & is_query)
        tl.store(key_target + half, first, mask=in_half & is_key)
        tl.store(key_target + ROTATED // 2 + half, second, mask=in_half & is_key)
    if ROTATED < SIZE:
        tl.store(target + rest, other, mask=in_rest & is_query)
        tl.store(key_target + rest, other, mask=in_rest & is_key)


@triton.jit
def _factors(query_norm, key_norm, is_query, column, inside):  # type: ignore[no-untyped-def]
    of_query = tl.load(query_norm + column + is_query * 0, mask=inside & is_query, other=0.0).to(tl.float32)
    of_key = tl.load(key_norm + column + is_query * 0, mask=inside & (is_query == 0), other=0.0).to(tl.float32)
    return of_query + of_key
