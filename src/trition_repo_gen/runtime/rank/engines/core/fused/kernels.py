"""Triton kernels between a layer's matrix products. All compute in float32 and round once.

With TRITON_INTERPRET=1 they run on a CPU as well, slowly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...kernels.launch import after_the_last, begin_the_next, dependent

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


class Places(NamedTuple):
    """The places of tokens in the cache and in their sequences: int[tokens] each.

    Args:
        blocks: of the cache.
        slots: within the block.
        positions: in the token's sequence.
    """

    blocks: Tensor
    slots: Tensor
    positions: Tensor


@dataclass(frozen=True)
class RotaryParameters:
    """Parameters of the rotary embedding and of the norms of queries and keys.

    Args:
        table: float32[positions, rotated size], cosines and then sines of the rotary embedding (Su et al. 2021) of
            a head's first columns; None where there is none.
        query_norm: [head size] weights of an RMS norm over each head of the queries, or None; likewise `key_norm`.
        key_norm: see `query_norm`.
        eps: of these norms.
    """

    table: Tensor | None
    query_norm: Tensor | None
    key_norm: Tensor | None
    eps: float

    def arguments(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, float]:
        """Return the kernels' arguments for it, in order."""
        return self.table, self.query_norm, self.key_norm, self.eps

    def constants(self) -> dict[str, Any]:
        """Return the kernels' compile-time constants for it."""
        return {"ROTATED": 0 if self.table is None else self.table.shape[1], "NORMS": self.query_norm is not None}


def rotate_and_store(
    mixed: Tensor, groups: int, key_cache: Tensor, value_cache: Tensor, places: Places, rotary: RotaryParameters
) -> Tensor:
    """Split queries, keys and values, rotate queries and keys by position, and write keys and values to the cache.

    Args:
        mixed: [tokens, columns], contiguous: for each group the heads of its queries, its key and its value.
        groups: KV heads.
        key_cache: [blocks, tokens per block, groups, head size]
        value_cache: like `key_cache`.
        places: of the tokens.
        rotary: of queries and keys.

    Returns:
        queries, [tokens, 1, heads, head size]
    """
    tokens, size = mixed.shape[0], key_cache.shape[-1]
    heads = mixed.shape[1] // size // groups - 2  # queries of a group
    query = mixed.new_empty(tokens, 1, groups * heads, size)
    _rotate_and_store[(tokens, groups)](
        mixed,
        query,
        key_cache,
        value_cache,
        *places,
        *rotary.arguments(),
        key_cache.stride(0),
        key_cache.stride(1),
        key_cache.stride(2),
        GROUPS=groups,
        HEADS=heads,
        SIZE=size,
        HEADS_BLOCK=triton.next_power_of_2(heads),
        SIZE_BLOCK=triton.next_power_of_2(size),
        num_warps=4,
        **rotary.constants(),
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
    HEADS_BLOCK: tl.constexpr,
    SIZE_BLOCK: tl.constexpr,
    ROTATED: tl.constexpr,
    NORMS: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    begin_the_next(DEPENDENT)
    after_the_last(DEPENDENT)
    token = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    source = mixed + (token * GROUPS + group) * (HEADS + 2) * SIZE
    head = tl.arange(0, HEADS_BLOCK)[:, None]
    column = tl.arange(0, SIZE_BLOCK)[None, :]
    inside = (head < HEADS) & (column < SIZE)
    position = tl.load(positions + token).to(tl.int64)
    queries = rotated(source + head * SIZE, column, inside, position, table, query_norm, eps, SIZE, ROTATED, NORMS)
    tl.store(query + (token * GROUPS + group) * HEADS * SIZE + head * SIZE + column, queries, mask=inside)

    place = tl.load(blocks + token).to(tl.int64) * block_stride + tl.load(slots + token).to(tl.int64) * slot_stride
    place += group * group_stride
    source += HEADS * SIZE
    store(source, key_cache + place, value_cache + place, column, position, table, key_norm, eps, SIZE, ROTATED, NORMS)


@triton.jit  # type: ignore[untyped-decorator]
def store(  # type: ignore[no-untyped-def]
    source,
    key_place,
    value_place,
    column,
    position,
    table,
    key_norm,
    eps,
    SIZE: tl.constexpr,
    ROTATED: tl.constexpr,
    NORMS: tl.constexpr,
):
    """Write a key, after `rotated`, and its value to the cache; return both, [1, columns]."""
    inside = column < SIZE
    key = rotated(source, column, inside, position, table, key_norm, eps, SIZE, ROTATED, NORMS)
    key = key.to(key_place.dtype.element_ty)
    value = tl.load(source + SIZE + column, mask=inside)
    tl.store(key_place + column, key, mask=inside)
    tl.store(value_place + column, value, mask=inside)
    return key, value


@triton.jit  # type: ignore[untyped-decorator]
def rotated(  # type: ignore[no-untyped-def]
    source,
    column,
    inside,
    position,
    table,
    norm,
    eps,
    SIZE: tl.constexpr,
    ROTATED: tl.constexpr,
    NORMS: tl.constexpr,
):
    """Load heads, float32[heads, columns], after their norm and the rotation of their first columns by halves."""
    half: tl.constexpr = ROTATED // 2
    values = tl.load(source + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, axis=1) / SIZE + eps)[:, None] if NORMS else 1.0
    if NORMS:
        values *= scale * tl.load(norm + column, mask=inside, other=0.0).to(tl.float32)
    if ROTATED > 0:
        rotates = column < ROTATED
        is_first = column < half
        other = tl.where(is_first, column + half, column - half)  # the other half's column of the same angle
        angle = table + position * ROTATED + tl.where(is_first, column, other)
        cosine = tl.load(angle, mask=rotates, other=1.0)
        sine = tl.load(angle + half, mask=rotates, other=0.0)
        others = tl.load(source + other, mask=inside & rotates, other=0.0).to(tl.float32)
        if NORMS:
            others *= scale * tl.load(norm + other, mask=inside & rotates, other=0.0).to(tl.float32)
        values = values * cosine + tl.where(is_first, -others, others) * sine
    return values
