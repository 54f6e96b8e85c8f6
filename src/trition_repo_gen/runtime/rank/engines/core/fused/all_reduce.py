"""Sum matrix products over the tensor-parallel ranks, small ones by kernels that access the other ranks' memory.

A decoding step has two sums per layer, of a few kilobytes each: NCCL's latency exceeds the transfer time. With torch's
symmetric memory a kernel reads what the other ranks computed, if all GPUs are in one host with peer access. torch has
kernels for a sum; for the smallest sums this module's kernel also adds to the residual stream and applies the norm that
follows.
"""

from __future__ import annotations

import logging
import socket
from typing import Any

import torch
import torch.distributed as dist
import triton
import triton.language as tl
from torch import Tensor

from ...kernels.launch import after_the_last, begin_the_next, dependent
from . import one_row

_BYTES = 8 << 20
"""The largest message that goes through symmetric memory."""
_ONE_SHOT_BYTES = 256 << 10
"""With more than two ranks, each rank sums one part of larger messages."""
_FEW_ROWS = 64
"""Largest number of tokens. Each is a program that waits for the other ranks, so all have to run at the same time."""
_PLACES = 3


class AllReduce:
    """Matrix products that are summed over the ranks of a group.

    Collective: all ranks of the group construct it and compute the same products in the same order.

    Args:
        group: the tensor-parallel ranks.
        columns: of the products.
        dtype: of the products.
        device: of the products.
    """

    def __init__(self, group: Any, columns: int, dtype: torch.dtype, device: torch.device):
        self.ranks: int = group.size()
        self._group = group
        self._buffer: Tensor | None = None
        self._exchange: Exchange | None = None
        if self.ranks > 1 and device.type == "cuda" and _all_reach_each_other(group, device):
            try:
                self._allocate(columns, dtype, device)
            except RuntimeError as error:
                logging.warning("Sums over ranks go through NCCL alone: %s", error)

    def _allocate(self, columns: int, dtype: torch.dtype, device: torch.device) -> None:
        rows = _BYTES // (columns * dtype.itemsize)
        buffer, _ = _symmetric((rows * columns,), dtype, device, self._group)
        if dtype == torch.bfloat16 and columns % 2 == 0:
            shape = (_PLACES * _FEW_ROWS, self.ranks, columns // 2)
            inbox, inboxes = _symmetric(shape, torch.int64, device, self._group)
            self._exchange = Exchange(self._group.rank(), inbox.zero_(), inboxes)
            torch.cuda.synchronize()
            dist.barrier(self._group)  # no rank may write to an inbox before it is zeroed
        self._buffer = buffer

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the sum of all ranks' `x @ weight.T`, [tokens, columns]."""
        rows, columns = x.shape[0], weight.shape[0]
        if self._buffer is None or rows * columns > self._buffer.numel():
            product = torch.mm(x, weight.t())
            dist.all_reduce(product, group=self._group)
            return product
        part = self._buffer[: rows * columns]
        torch.mm(x, weight.t(), out=part.view(rows, columns))
        if self.ranks > 2 and part.nbytes > _ONE_SHOT_BYTES:
            return torch.ops.symm_mem.two_shot_all_reduce_(part, "sum", self._group.group_name).view(rows, columns)
        return torch.ops.symm_mem.one_shot_all_reduce(part, "sum", self._group.group_name).view(rows, columns)

    def exchange(self, rows: int) -> Exchange | None:
        """Return the exchange that also applies the norm that follows, if there are few enough rows; else None."""
        return self._exchange if rows <= _FEW_ROWS else None


class Exchange:
    """Sums over ranks, adds to the residual stream and applies the norm in one kernel, for few tokens.

    Args:
        rank: of this process among the ranks.
        inbox: int64[places * rows, ranks, columns / 2], zeros, where the other ranks write; see `_add_and_norm`.
        inboxes: int64[ranks], the address of each rank's inbox.
    """

    def __init__(self, rank: int, inbox: Tensor, inboxes: Tensor):
        slots, self._ranks, pairs = inbox.shape
        self._rank = rank
        self._inbox = inbox  # keeps the symmetric memory mapped
        self._inboxes = inboxes
        self._uses = torch.zeros(slots, dtype=torch.int32, device=inbox.device)
        self._parts = torch.empty(slots, 2 * pairs, dtype=torch.bfloat16, device=inbox.device)
        self._sent = False
        """Whether the part that was left last is sent already."""

    def leave(self, x: Tensor, weight: Tensor, place: int) -> None:
        """Compute this rank's part of a product. That of one token is sent at once, else `add_and_norm` sends it.

        Args:
            x: [rows, inner]
            weight: [columns, inner]
            place: 0, 1 or 2. Consecutive products need different places: a rank that sends its part of the next one has
                read the others' parts of this one.
        """
        slot = place * _FEW_ROWS
        part = self._parts[slot : slot + x.shape[0]]
        self._sent = one_row.can_multiply(x, weight)
        if self._sent:
            inboxes = one_row.Inboxes(self._inboxes, self._uses, slot, self._rank)
            one_row.product(x, weight, out=part, inboxes=inboxes)
        else:
            torch.mm(x, weight.t(), out=part)

    def add_and_norm(self, residual: Tensor, weight: Tensor, eps: float, place: int) -> Tensor:
        """Add the sum of the ranks' parts to `residual`, in place, and return its RMS norm.

        Args:
            residual: bfloat16[rows, columns]
            weight: [columns] of the norm.
            eps: of the norm.
            place: see `leave`.

        Returns:
            [rows, columns]
        """
        rows, columns = residual.shape
        out = torch.empty_like(residual)
        block = triton.next_power_of_2(columns // 2)
        _add_and_norm[(rows,)](
            *(self._parts.view(torch.int32), self._inboxes, self._uses),
            *(residual.view(torch.int32), weight.view(torch.int32), out.view(torch.int32)),
            *(columns // 2, eps, place * _FEW_ROWS),
            RANK=self._rank,
            RANKS=self._ranks,
            SENT=self._sent,
            BLOCK=block,
            num_warps=max(4, min(16, block // 256)),
            **dependent(residual.device),
        )
        return out


def _all_reach_each_other(group: Any, device: torch.device) -> bool:
    """Return whether all ranks of the group are in one host whose GPUs have access to each other's memory."""
    others = (index for index in range(torch.cuda.device_count()) if index != device.index)
    mine = (socket.gethostname(), all(torch.cuda.can_device_access_peer(device.index, other) for other in others))
    places: list[Any] = [None] * group.size()
    dist.all_gather_object(places, mine, group=group)
    return len({host for host, _ in places}) == 1 and all(reaches for _, reaches in places)


def _symmetric(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, group: Any) -> tuple[Tensor, Tensor]:
    """Return memory that all ranks of the group can access, and int64[ranks], the address of each rank's."""
    from torch.distributed import _symmetric_memory

    memory: Tensor = _symmetric_memory.empty(shape, dtype=dtype, device=device)
    handle = _symmetric_memory.rendezvous(memory, group.group_name)
    return memory, torch.tensor(handle.buffer_ptrs, dtype=torch.int64, device=device)


@triton.jit  # type: ignore[untyped-decorator]
def _add_and_norm(  # type: ignore[no-untyped-def]
    parts,
    inboxes,
    uses,
    residual,
    weight,
    out,
    pairs,
    eps,
    first_row,
    RANK: tl.constexpr,
    RANKS: tl.constexpr,
    SENT: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    # Two bfloat16 numbers and the number of the use travel in eight bytes, which arrive together (NCCL's protocol LL).
    row = tl.program_id(0)
    slot = first_row + row
    pair = tl.arange(0, BLOCK)
    inside = pair < pairs
    factors = tl.load(weight + pair, mask=inside, other=0)
    begin_the_next(DEPENDENT)
    after_the_last(DEPENDENT)
    use = tl.load(uses + slot) + 1
    mine = tl.load(parts + slot * pairs + pair, mask=inside, other=0)
    stamp = use.to(tl.int64) << 32
    for peer in tl.static_range(RANKS):
        if peer != RANK and not SENT:
            theirs = tl.load(inboxes + peer).to(tl.pointer_type(tl.int64)) + (slot * RANKS + RANK) * pairs
            tl.store(theirs + pair, stamp | (mine.to(tl.int64) & 0xFFFFFFFF), mask=inside)
    place = residual + row * pairs + pair
    before = tl.load(place, mask=inside, other=0)
    # All ranks add in the same order, so that their residual streams stay equal.
    low = tl.zeros([BLOCK], tl.float32)
    high = tl.zeros([BLOCK], tl.float32)
    for peer in tl.static_range(RANKS):
        part = mine
        if peer != RANK:
            sent = tl.load(inboxes + RANK).to(tl.pointer_type(tl.int64)) + (slot * RANKS + peer) * pairs
            got = tl.load(sent + pair, mask=inside, other=stamp, volatile=True)
            while tl.sum(((got >> 32) != use.to(tl.int64)).to(tl.int32), axis=0) > 0:
                got = tl.load(sent + pair, mask=inside, other=stamp, volatile=True)
            part = got.to(tl.int32)
        low += _low(part)
        high += _high(part)
    low = (low + _low(before)).to(tl.bfloat16)
    high = (high + _high(before)).to(tl.bfloat16)
    tl.store(place, _pair(low, high), mask=inside)
    tl.store(uses + slot, use)
    low = low.to(tl.float32)
    high = high.to(tl.float32)
    scale = tl.rsqrt(tl.sum(low * low + high * high, axis=0) / (2 * pairs) + eps)
    low = (low * scale * _low(factors)).to(tl.bfloat16)
    high = (high * scale * _high(factors)).to(tl.bfloat16)
    tl.store(out + row * pairs + pair, _pair(low, high), mask=inside)


@triton.jit
def _low(pair):  # type: ignore[no-untyped-def]
    return (pair << 16).to(tl.float32, bitcast=True)


@triton.jit
def _high(pair):  # type: ignore[no-untyped-def]
    return (pair & -65536).to(tl.float32, bitcast=True)


@triton.jit
def _pair(low, high):  # type: ignore[no-untyped-def]
    upper = high.to(tl.int16, bitcast=True).to(tl.int32) << 16
    return upper | (low.to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF)
