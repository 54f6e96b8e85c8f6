"""Matrix products of a few rows: each weight is read once, and that is all their time.

Tensor cores want 64 rows or more. Of fewer, cuBLAS leaves some of the memory's bandwidth unused where the weights of
one layer and rank are small, and adds up parts of a product in a second kernel.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_ROWS = 2
"""The most rows that are faster here than with cuBLAS."""
_COLUMNS, _DEPTH, _WARPS = 8, 512, 4
"""Of a program: columns of the product, how much of them it reads at once, and threads by 32."""


def takes(x: Tensor) -> bool:
    """Return whether `product` is for rows like these."""
    return bool(x.is_cuda and x.shape[0] <= _ROWS and x.shape[1] % _DEPTH == 0)


def product(x: Tensor, weight: Tensor, out: Tensor | None = None, *, residual: Tensor | None = None) -> Tensor:
    """Return `x @ weight.T`, plus `residual` if there is one.

    Args:
        x: [rows, inner]
        weight: [columns, inner]
        out: [rows, columns], where the result goes; may be `residual` itself.
        residual: [rows, columns]

    Returns:
        [rows, columns]
    """
    (rows, inner), columns = x.shape, weight.shape[0]
    if out is None:
        out = x.new_empty(rows, columns)
    _product[(triton.cdiv(columns, _COLUMNS),)](
        *(x, weight, out, out if residual is None else residual, columns, inner),
        ROWS=rows,
        COLUMNS=_COLUMNS,
        DEPTH=_DEPTH,
        ADD=residual is not None,
        num_warps=_WARPS,
    )
    return out


def gated_product(x: Tensor, weight: Tensor) -> Tensor:
    """Return SiLU of the first half of each row of `x @ weight.T`, times its second half.

    Args:
        x: [rows, inner]
        weight: [2 * columns, inner]

    Returns:
        [rows, columns]
    """
    (rows, inner), columns = x.shape, weight.shape[0] // 2
    out = x.new_empty(rows, columns)
    _gated_product[(triton.cdiv(columns, _COLUMNS // 2),)](
        *(x, weight, out, columns, inner), ROWS=rows, COLUMNS=_COLUMNS // 2, DEPTH=_DEPTH, num_warps=_WARPS
    )
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _product(  # type: ignore[no-untyped-def]
    x,
    weight,
    out,
    residual,
    columns,
    inner,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    ADD: tl.constexpr,
):
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (column < columns)[None, :]
    total = _dots(x, weight, column, column < columns, inner, ROWS, COLUMNS, DEPTH)
    place = tl.arange(0, ROWS)[:, None] * columns + column[None, :]
    if ADD:
        total += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, total, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _gated_product(  # type: ignore[no-untyped-def]
    x, weight, out, columns, inner, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr
):
    # A gate and its value lie side by side, so that both come of one loop.
    number = tl.arange(0, 2 * COLUMNS)
    column = tl.program_id(0) * COLUMNS + number // 2
    both = _dots(x, weight, column + (number % 2) * columns, column < columns, inner, ROWS, 2 * COLUMNS, DEPTH)
    gate, value = tl.split(tl.reshape(both, (ROWS, COLUMNS, 2)))
    place = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (place < columns)[None, :]
    place = tl.arange(0, ROWS)[:, None] * columns + place[None, :]
    tl.store(out + place, gate * tl.sigmoid(gate) * value, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _dots(  # type: ignore[no-untyped-def]
    x, weight, column, inside, inner, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr
):
    row = tl.arange(0, ROWS)[:, None]
    depth = tl.arange(0, DEPTH)[None, :]
    first = column.to(tl.int64)[:, None] * inner
    total = tl.zeros([ROWS, COLUMNS, DEPTH], tl.float32)
    for start in range(0, inner, DEPTH):
        values = tl.load(x + row * inner + start + depth).to(tl.float32)
        weights = tl.load(weight + first + start + depth, mask=inside[:, None], other=0.0).to(tl.float32)
        total += values[:, None, :] * weights[None, :, :]
    return tl.sum(total, axis=2)
