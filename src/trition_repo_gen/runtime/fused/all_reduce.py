"""Sums over the tensor-parallel ranks, small ones by a kernel that reads the other ranks' memory itself.

A decoding step has two for every layer, of a few kilobytes: NCCL needs longer for one than the transfer takes. torch's
symmetric memory has kernels for it, which need all GPUs in one host with direct access to one another.
"""

from __future__ import annotations

import logging
import socket
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_BYTES = 8 << 20
"""The largest message that goes through symmetric memory."""
_ONE_SHOT_BYTES = 256 << 10
"""With more than two ranks, larger messages are summed in parts, each rank one of them."""


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
        self._buffer: Tensor | None = None
        if self.ranks > 1 and device.type == "cuda":
            rows = _BYTES // (columns * dtype.itemsize)
            self._buffer = _symmetric(rows * columns, dtype, device, group)

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


def _symmetric(size: int, dtype: torch.dtype, device: torch.device, group: Any) -> Tensor | None:
    """Return memory that all ranks of the group can read, or None where they cannot."""
    places: list[Any] = [None] * group.size()
    dist.all_gather_object(places, (socket.gethostname(), _reachable(device)), group=group)
    if len({host for host, _ in places}) > 1 or not all(reachable for _, reachable in places):
        return None
    from torch.distributed import _symmetric_memory

    try:
        buffer: Tensor = _symmetric_memory.empty(size, dtype=dtype, device=device)
        _symmetric_memory.rendezvous(buffer, group.group_name)
    except RuntimeError as error:
        logging.warning("Sums over ranks go through NCCL alone: %s", error)
        return None
    return buffer


def _reachable(device: torch.device) -> bool:
    """Return whether this GPU reads the memory of all others of the host."""
    others = (index for index in range(torch.cuda.device_count()) if index != device.index)
    return all(torch.cuda.can_device_access_peer(device.index, other) for other in others)
