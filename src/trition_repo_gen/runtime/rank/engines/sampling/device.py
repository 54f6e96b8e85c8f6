"""From the host to the device without waiting for what the device computes at the time."""

from collections.abc import Sequence

import torch
from torch import Tensor

type Rows = slice | Tensor
"""Rows of a tensor: a slice, which makes a view, or int64[rows] on the device, which makes a copy."""


def to_device(device: torch.device, values: Sequence[float]) -> Tensor:
    """Return numbers on the device: int64 where all are integers, else float32."""
    if device.type == "cpu":
        return torch.tensor(values)
    return torch.tensor(values, pin_memory=True).to(device, non_blocking=True)


def send(device: torch.device, values: Tensor) -> Tensor:
    """Return a copy on the device of a tensor on the host."""
    return values if device.type == "cpu" else values.pin_memory().to(device, non_blocking=True)


def column(device: torch.device, values: Sequence[float]) -> Tensor:
    """Return numbers on the device as a column, [numbers, 1]; see `to_device`."""
    return to_device(device, values)[:, None]


def put(table: Tensor, rows: Tensor, columns: Tensor, value: float) -> None:
    """Set elements of a table to a number. `table[rows, columns] = value` waits for a GPU (torch 2.11).

    Args:
        table: [any, any]
        rows: int64[elements]
        columns: int64[elements]
        value: of the table's type.
    """
    table.index_put_((rows, columns), table.new_full((), value))


def rows_on(device: torch.device, rows: Sequence[int]) -> Rows:
    """Return ascending row numbers as an index: a slice where they follow one another."""
    first, last = rows[0], rows[-1]
    return slice(first, last + 1) if last - first + 1 == len(rows) else to_device(device, rows)
