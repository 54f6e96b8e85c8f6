"""Argmax of each row, in Triton: torch runs a row of a whole vocabulary on one multiprocessor of the GPU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import after_the_last, begin_the_next, dependent

_BLOCK = 2048
_PROGRAMS = 1056
"""Eight per multiprocessor of a Hopper GPU."""
_MOST_PARTS = 64


def argmax(x: Tensor) -> Tensor:
    """Return the column of each row's largest number; the first of equal ones. NaN is skipped.

    Args:
        x: [rows, columns], at least one row.

    Returns:
        int64[rows]
    """
    rows, columns = x.shape
    x = x if x.stride(1) == 1 else x.contiguous()
    out = x.new_empty(rows, dtype=torch.int64)
    wanted = triton.cdiv(_PROGRAMS, rows)
    parts = triton.next_power_of_2(max(1, min(wanted, triton.cdiv(columns, _BLOCK), _MOST_PARTS)))
    numbers = x.new_empty(rows, parts, dtype=torch.float32)
    places = x.new_empty(rows, parts, dtype=torch.int32)
    span = triton.cdiv(triton.cdiv(columns, parts), _BLOCK) * _BLOCK
    _search[(rows, parts)](
        x, numbers, places, columns, span, x.stride(0), parts, BLOCK=_BLOCK, num_warps=4, **dependent(x.device)
    )
    _decide[(rows,)](numbers, places, out, PARTS=parts, num_warps=1, **dependent(x.device))
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _search(  # type: ignore[no-untyped-def]
    x, numbers, places, columns, span, stride, parts, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr
):
    begin_the_next(DEPENDENT)
    after_the_last(DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    begin = tl.program_id(1) * span
    lane = tl.arange(0, BLOCK)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    place = begin + lane
    for start in range(begin, tl.minimum(begin + span, columns), BLOCK):
        column = start + lane
        number = tl.load(x + row * stride + column, mask=column < columns, other=float("-inf")).to(tl.float32)
        place = tl.where(number > best, column, place)
        best = tl.maximum(best, number)
    largest = tl.max(best, axis=0)
    first = tl.min(tl.where(best == largest, place, columns), axis=0)
    target = row * parts + tl.program_id(1)
    tl.store(numbers + target, largest)
    tl.store(places + target, first)


@triton.jit  # type: ignore[untyped-decorator]
def _decide(numbers, places, out, PARTS: tl.constexpr, DEPENDENT: tl.constexpr):  # type: ignore[no-untyped-def]
    begin_the_next(DEPENDENT)
    after_the_last(DEPENDENT)
    row = tl.program_id(0)
    part = row * PARTS + tl.arange(0, PARTS)
    number = tl.load(numbers + part)
    largest = tl.max(number, axis=0)
    place = tl.load(places + part)
    tl.store(out + row, tl.min(tl.where(number == largest, place, 2**31 - 1), axis=0).to(tl.int64))
