"""Matrix products of one token, in Triton, as fast as the weights can be read.

A decoding step of one token reads every weight once and computes almost nothing. It loses time between kernels: each
waits for the previous one and then for its own first weights. These kernels start to read their weights while the
previous kernel still runs, and include the norm before a product, the gate after it, or the addition to the residual
stream, which would be separate kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...kernels.launch import after_the_last, begin_the_next, dependent

_BLOCK_OUT = 4
"""Rows of the weights that a program reads, including those of gates; the values of two stamped pairs."""
_BLOCK_IN = 512
"""Columns of the input that a program reads at a time."""
_WARPS = 4


@dataclass(frozen=True)
class Inboxes:
    """Where other ranks wait for a product's pairs of bfloat16 values, each with a stamp in the same eight bytes.

    Args:
        addresses: int64[ranks], of each rank's int64[slots, ranks, pairs].
        uses: int32[slots], how often each slot was used before; one more is the stamp.
        slot: the one to write to.
        rank: of this process.
    """

    addresses: Tensor
    uses: Tensor
    slot: int
    rank: int


def can_multiply(x: Tensor, weight: Tensor) -> bool:
    """Return whether the functions below take this input and these weights."""
    columns, inner = weight.shape
    return bool(x.shape[0] == 1 and columns % _BLOCK_OUT == 0 and inner % _BLOCK_IN == 0)


def product(
    x: Tensor,
    weight: Tensor,
    *,
    norm: Tensor | None = None,
    eps: float = 0.0,
    bias: Tensor | None = None,
    out: Tensor | None = None,
    inboxes: Inboxes | None = None,
) -> Tensor:
    """Return `x @ weight.T`, of the RMS norm of `x` where there is one.

    Args:
        x: [1, inner], contiguous.
        weight: [columns, inner], contiguous.
        norm: [inner] weights of the norm.
        eps: of the norm.
        bias: [columns], added.
        out: [1, columns], contiguous, for the result.
        inboxes: of the ranks to which the result is sent as well, as it is computed.

    Returns:
        [1, columns]
    """
    if out is None:
        out = x.new_empty(1, weight.shape[0])
    _launch(x, weight, out, norm, bias, eps, gated=False, inboxes=inboxes)
    return out


def gated_product(x: Tensor, weight: Tensor, *, norm: Tensor | None = None, eps: float = 0.0) -> Tensor:
    """Return SiLU of the first half of the columns of `product`, times their second half: [1, columns / 2]."""
    out = x.new_empty(1, weight.shape[0] // 2)
    _launch(x, weight, out, norm, None, eps, gated=True)
    return out


def add_product(residual: Tensor, x: Tensor, weight: Tensor, *, in_place: bool) -> Tensor:
    """Return `residual + x @ weight.T`, [1, columns]."""
    out = residual if in_place else torch.empty_like(residual)
    _launch(x, weight, out, None, residual, 0.0, gated=False)
    return out


def _launch(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    norm: Tensor | None,
    added: Tensor | None,
    eps: float,
    *,
    gated: bool,
    inboxes: Inboxes | None = None,
) -> None:
    inner, columns = x.shape[1], out.shape[1]
    block_out = _BLOCK_OUT // 2 if gated else _BLOCK_OUT
    _multiply[(columns // block_out,)](
        x,
        weight,
        norm,
        added,
        out,
        columns,
        inner,
        eps,
        *((inboxes.addresses, inboxes.uses, inboxes.slot) if inboxes is not None else (None, None, 0)),
        RANK=inboxes.rank if inboxes is not None else 0,
        RANKS=inboxes.addresses.shape[0] if inboxes is not None else 1,
        NORM=norm is not None,
        ADD=added is not None,
        GATED=gated,
        BLOCK_OUT=block_out,
        BLOCK_IN=_BLOCK_IN,
        num_warps=_WARPS,
        **dependent(x.device),
    )


@triton.jit  # type: ignore[untyped-decorator]
def _multiply(  # type: ignore[no-untyped-def]
    x,
    weight,
    norm,
    added,
    out,
    columns,
    inner,
    eps,
    inboxes,
    uses,
    slot,
    RANK: tl.constexpr,
    RANKS: tl.constexpr,
    NORM: tl.constexpr,
    ADD: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    column = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    place = tl.arange(0, BLOCK_IN)
    first = weight + column.to(tl.int64)[:, None] * inner + place[None, :]
    second = first + columns.to(tl.int64) * inner if GATED else first
    weights = tl.load(first)
    values = tl.load(second) if GATED else weights
    begin_the_next(DEPENDENT)
    after_the_last(DEPENDENT)

    sums = tl.zeros([BLOCK_OUT, BLOCK_IN], tl.float32)
    value_sums = sums
    squares = tl.zeros([BLOCK_IN], tl.float32)
    for start in range(0, inner, BLOCK_IN):
        following = start + BLOCK_IN
        more = following + place[None, :] < inner
        next_weights = tl.load(first + following, mask=more, other=0.0)
        next_values = tl.load(second + following, mask=more, other=0.0) if GATED else next_weights
        row = tl.load(x + start + place).to(tl.float32)
        if NORM:
            squares += row * row
            row *= tl.load(norm + start + place).to(tl.float32)
        sums += weights.to(tl.float32) * row[None, :]
        if GATED:
            value_sums += values.to(tl.float32) * row[None, :]
        weights = next_weights
        values = next_values

    scale = tl.rsqrt(tl.sum(squares, axis=0) / inner + eps) if NORM else 1.0
    result = tl.sum(sums, axis=1) * scale
    if GATED:
        result = result * tl.sigmoid(result) * tl.sum(value_sums, axis=1) * scale
    if ADD:
        result += tl.load(added + column).to(tl.float32)
    if RANKS > 1:
        bits = result.to(tl.bfloat16).to(tl.int16, bitcast=True).to(tl.int64) & 0xFFFF
        pairs = tl.sum(tl.reshape(bits, [BLOCK_OUT // 2, 2]) << 16 * tl.arange(0, 2)[None, :], axis=1)
        stamped = ((tl.load(uses + slot) + 1).to(tl.int64) << 32) | pairs
        pair = tl.program_id(0) * (BLOCK_OUT // 2) + tl.arange(0, BLOCK_OUT // 2)
        for peer in tl.static_range(RANKS):
            if peer != RANK:
                theirs = tl.load(inboxes + peer).to(tl.pointer_type(tl.int64))
                tl.store(theirs + (slot * RANKS + RANK) * (columns // 2) + pair, stamped)
    tl.store(out + column, result)
