"""One number per sequence and token of the vocabulary, on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .device import to_device

_LEAST_SLOTS = 4


class TokenTable:
    """A table with a slot, a row of zeros at first, for each of the sequences that need one.

    It grows by doubling, and its memory is given back when the last sequence leaves. In one tensor a step reads and
    writes the slots of all its sequences with one kernel each.

    Args:
        vocab_size: columns.
        dtype: of the numbers.
    """

    def __init__(self, vocab_size: int, dtype: torch.dtype):
        self.values = torch.empty(0, vocab_size, dtype=dtype)
        """[slots, vocabulary]; replaced when the table grows."""
        self._slots: dict[int, int] = {}
        self._free: list[int] = []

    def add(self, request_id: int, device: torch.device) -> Tensor:
        """Take a slot for a sequence; return it, a view of [vocabulary] zeros."""
        if not self._free:
            self._grow(device)
        slot = self._slots[request_id] = self._free.pop()
        row: Tensor = self.values[slot]
        return row.zero_()

    def remove(self, request_id: int) -> None:
        """Give a sequence's slot back."""
        self._free.append(self._slots.pop(request_id))
        if not self._slots:
            self.values, self._free = self.values[:0].clone(), []

    def slots(self, request_ids: Sequence[int], device: torch.device) -> Tensor:
        """Return the sequences' slots, int64[sequences]; they stay the same for as long as the sequences do."""
        return to_device(device, [self._slots[request_id] for request_id in request_ids])

    def _grow(self, device: torch.device) -> None:
        old = len(self.values)
        new = max(_LEAST_SLOTS, 2 * old)
        values = self.values.new_empty(new, self.values.shape[1], device=device)
        values[:old] = self.values
        self.values = values
        self._free += range(old, new)
