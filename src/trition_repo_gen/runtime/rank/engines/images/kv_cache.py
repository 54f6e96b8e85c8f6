"""Paged KV cache: memory in blocks, assigned to sequences (Kwon et al. 2023, arXiv 2309.06180)."""

import math

import torch
from torch import Tensor

from ..memory import SMALL_KV_BLOCK_TOKENS as BLOCK_SIZE

__all__ = ["BLOCK_SIZE", "KVCache"]


class KVCache:
    """The cache of this rank's layers, and the blocks of each sequence; all ranks of a replica assign the same blocks.

    Args:
        layers: attention layers of this rank.
        heads: KV heads of this rank.
        head_size: channels of a head.
        size: bytes to use; at least one block is allocated.
        dtype: of keys and values.
        device: of keys and values.
    """

    def __init__(self, layers: int, heads: int, head_size: int, size: float, dtype: torch.dtype, device: torch.device):
        block_bytes = 2 * layers * BLOCK_SIZE * heads * head_size * dtype.itemsize
        self._blocks = max(1, int(size // block_bytes))
        shape = (layers, self._blocks * BLOCK_SIZE, heads, head_size)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        """(layers, places, KV heads, head size)"""
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self._free = list(range(self._blocks))[::-1]
        self._sequences: dict[int, Tensor] = {}

    @property
    def room(self) -> int:
        """Tokens that the cache holds."""
        return self._blocks * BLOCK_SIZE

    @property
    def usage(self) -> float:
        """The share of blocks in use, from 0 to 1."""
        return 1 - len(self._free) / self._blocks

    def fits(self, tokens: int) -> bool:
        """Whether there are free blocks for a sequence of that many tokens, prompt and answer."""
        return math.ceil(tokens / BLOCK_SIZE) <= len(self._free)

    def take(self, request_id: int, tokens: int) -> None:
        """Assign a sequence the blocks for its maximum length."""
        blocks = torch.tensor([self._free.pop() for _ in range(math.ceil(tokens / BLOCK_SIZE))])
        places = blocks[:, None] * BLOCK_SIZE + torch.arange(BLOCK_SIZE)
        self._sequences[request_id] = places.flatten()

    def give_back(self, request_id: int) -> None:
        """Free a sequence's blocks."""
        places = self._sequences.pop(request_id)
        self._free.extend((places[::BLOCK_SIZE] // BLOCK_SIZE).tolist())

    def places(self, request_id: int, start: int, stop: int) -> Tensor:
        """Return int64[stop - start], the places of a sequence's tokens from `start` to `stop`."""
        return self._sequences[request_id][start:stop]
