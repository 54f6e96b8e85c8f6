"""Sums over the tensor-parallel ranks, small ones by kernels that read the other ranks' memory themselves.

A decoding step has two for every layer, of a few kilobytes: NCCL needs longer for one than the transfer takes. torch's
symmetric memory lets a kernel read what the other ranks computed, where all GPUs are in one host and have direct access
to one another. torch has kernels for a sum; for the smallest ones this module's takes in the addition to the residual
stream and the norm that follow.
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

_BYTES = 8 << 20
"""The largest message that goes through symmetric memory."""
_ONE_SHOT_BYTES = 256 << 10
"""With more than two ranks, larger messages are summed in parts, each rank one of them."""
_FEW_ROWS = 64
"""Rows, each a program that waits for the other ranks: they all have to run at the same time."""


class AllReduce:
    """Matrix products whose parts lie on the ranks of a group.

    Collective: all ranks of the group make one, and ask it for the same products.

    Args:
        group: the tensor-parallel ranks.
        columns: of the products.
        dtype: of the products.
        device: where they lie.
    """

    def __init__(self, group: Any, columns: int, dtype: torch.dtype, device: torch.device):
        self.ranks: int = group.size()
        self._group = group
        self._columns = columns
        self._buffer: Tensor | None = None
        if self.ranks > 1 and device.type == "cuda" and _all_reach_each_other(group, device):
            self._allocate(dtype, device)

    def _allocate(self, dtype: torch.dtype, device: torch.device) -> None:
        rows = _BYTES // (self._columns * dtype.itemsize)
        try:
            self._buffer, _ = _symmetric(rows * self._columns, dtype, device, self._group)
            self._parts, self._part_addresses = _symmetric(3 * _FEW_ROWS * self._columns, dtype, device, self._group)
            signals = _symmetric(3 * _FEW_ROWS * self.ranks, torch.int32, device, self._group)
        except RuntimeError as error:
            logging.warning("Sums over ranks go through NCCL alone: %s", error)
            self._buffer = None
            return
        self._signals, self._signal_addresses = signals
        self._signals.zero_()
        torch.cuda.synchronize()
        dist.barrier(self._group)  # before a rank signals, the others' signals are zero

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the sum of all ranks' `x @ weight.T`, [rows, columns]."""
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

    def takes(self, rows: int) -> bool:
        """Return whether `leave` and `add_and_norm` do the work of `product` for so many rows."""
        return self._buffer is not None and rows <= _FEW_ROWS

    def leave(self, x: Tensor, weight: Tensor, place: int) -> None:
        """Compute this rank's part of a product and leave it where the others can read it.

        Args:
            x: [rows, inner]
            weight: [columns, inner]
            place: 0, 1 or 2. Consecutive products need different places: that a rank has its part of the next one
                ready tells the others that it has read their parts of this one.
        """
        first = place * _FEW_ROWS * self._columns
        part = self._parts[first : first + x.shape[0] * self._columns]
        torch.mm(x, weight.t(), out=part.view(x.shape[0], self._columns))

    def add_and_norm(self, residual: Tensor, weight: Tensor, eps: float, place: int) -> Tensor:
        """Add the sum of what the ranks left to `residual`, in place, and return its RMS norm.

        Args:
            residual: [rows, columns]
            weight: [columns] of the norm.
            eps: of the norm.
            place: see `leave`.

        Returns:
            [rows, columns]
        """
        rows, columns = residual.shape
        out = torch.empty_like(residual)
        block = triton.next_power_of_2(columns)
        _add_and_norm[(rows,)](
            self._part_addresses,
            self._signal_addresses,
            residual,
            weight,
            out,
            columns,
            eps,
            place * _FEW_ROWS,
            RANK=self._group.rank(),
            RANKS=self.ranks,
            BLOCK=block,
            num_warps=max(4, min(16, block // 512)),
        )
        return out


def _all_reach_each_other(group: Any, device: torch.device) -> bool:
    """Return whether all ranks of the group are in one host, and each GPU there reads the memory of the others."""
    others = (index for index in range(torch.cuda.device_count()) if index != device.index)
    mine = (socket.gethostname(), all(torch.cuda.can_device_access_peer(device.index, other) for other in others))
    places: list[Any] = [None] * group.size()
    dist.all_gather_object(places, mine, group=group)
    return len({host for host, _ in places}) == 1 and all(reaches for _, reaches in places)


def _symmetric(size: int, dtype: torch.dtype, device: torch.device, group: Any) -> tuple[Tensor, Tensor]:
    """Return memory that all ranks of the group can read, and int64[ranks], where each rank's lies."""
    from torch.distributed import _symmetric_memory

    memory: Tensor = _symmetric_memory.empty(size, dtype=dtype, device=device)
    handle = _symmetric_memory.rendezvous(memory, group.group_name)
    return memory, torch.tensor(handle.buffer_ptrs, dtype=torch.int64, device=device)


@triton.jit  # type: ignore[untyped-decorator]
def _add_and_norm(  # type: ignore[no-untyped-def]
    parts,
    signals,
    residual,
    weight,
    out,
    columns,
    eps,
    first_row,
    RANK: tl.constexpr,
    RANKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    # A signal goes from 0 to 1 when the rank that it is for may read, and back to 0 when that rank has seen it.
    for peer in tl.static_range(RANKS):
        if peer != RANK:
            theirs = tl.load(signals + peer).to(tl.pointer_type(tl.int32)) + (first_row + row) * RANKS + RANK
            while tl.atomic_cas(theirs, 0, 1, sem="release", scope="sys") != 0:
                pass
    for peer in tl.static_range(RANKS):
        if peer != RANK:
            mine = tl.load(signals + RANK).to(tl.pointer_type(tl.int32)) + (first_row + row) * RANKS + peer
            while tl.atomic_cas(mine, 1, 0, sem="acquire", scope="sys") != 1:
                pass
    column = tl.arange(0, BLOCK)
    inside = column < columns
    total = tl.zeros([BLOCK], tl.float32)
    for peer in tl.static_range(RANKS):
        part = tl.load(parts + peer).to(tl.pointer_type(residual.dtype.element_ty)) + (first_row + row) * columns
        total += tl.load(part + column, mask=inside, other=0.0, volatile=True).to(tl.float32)
    place = residual + row * columns + column
    total += tl.load(place, mask=inside, other=0.0).to(tl.float32)
    rounded = total.to(residual.dtype.element_ty)
    tl.store(place, rounded, mask=inside)
    values = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, axis=0) / columns + eps)
    factors = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * columns + column, values * scale * factors, mask=inside)
