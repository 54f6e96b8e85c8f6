"""Gumbel noise by counter: a sequence's numbers depend on its seed, the position and the column alone."""

from collections.abc import Iterable

import torch
from torch import Tensor

from .device import send

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class NoiseKeys:
    """Keys of the noise of some sequences, at one position after the other.

    They are computed on the host, for all sequences at once: a loop over 256 takes a quarter of a millisecond.

    Args:
        starts: seed and position of each sequence.
    """

    def __init__(self, starts: Iterable[tuple[int, int]]):
        counters = [_signed((seed + _GOLDEN * (position + 1)) & _MASK) for seed, position in starts]
        self._counters = torch.tensor(counters, dtype=torch.int64)[:, None]

    def take(self, device: torch.device) -> Tensor:
        """Return the keys at the current position, int64[sequences, 1], and go on to the next."""
        keys = _mix(self._counters)
        self._counters += _signed(_GOLDEN)
        return send(device, keys)


def gumbel_noise(keys: Tensor, size: int) -> Tensor:
    """Return Gumbel noise that depends on each sequence's key and the column alone.

    Args:
        keys: int64[sequences, 1]
        size: columns.

    Returns:
        float32[sequences, size]
    """
    columns = torch.arange(1, size + 1, device=keys.device)
    mixed = _mix(keys + columns * _signed(_GOLDEN))
    # The largest of 2**24 numbers rounds to 1 in float32, which would make its column's noise infinite.
    uniform = ((((mixed >> 40) & 0xFFFFFF).float() + 0.5) / (1 << 24)).clamp_(max=1 - 2**-24)
    return -torch.log(-torch.log(uniform))


def _mix(value: Tensor) -> Tensor:
    """Return the finaliser of SplitMix64 (Steele, Lea, Flood 2014) of int64 numbers, whose products wrap around."""
    value = (value ^ _shift(value, 30)) * _signed(0xBF58476D1CE4E5B9)
    value = (value ^ _shift(value, 27)) * _signed(0x94D049BB133111EB)
    return value ^ _shift(value, 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Shift right without the sign: torch's own shift of int64 keeps it."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
