"""Compute the gated half of an MLP in one kernel: a matrix product with SiLU(gate) * value as its epilogue.

quack's product for Hopper, which comes with FlashAttention 4, has such an epilogue and a choice of tiles. cuBLAS
computes 256 tokens of an 8B Llama in tiles of 128 x 256: 224 tiles for the 132 multiprocessors of a Hopper GPU.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .kernels import silu_mul

_WIDTHS = (256, 224)
"""Columns of a tile; the first of two equally fast ones is used."""
_LOW = 64
_HIGH = 128
"""Rows of a tile."""
_ALIGNED = 64
"""Columns of the weights, and of either half of the product, come in multiples of this."""


class GatedProduct:
    """SiLU of the first half of a product, times its second half.

    Args:
        weight: [columns, inner] on its device, like those of all calls.
    """

    def __init__(self, weight: Tensor):
        self._multiply: Any = None
        self._config: Any = None
        self._multiprocessors = 0
        columns, inner = weight.shape
        if weight.device.type == "cuda" and inner % _ALIGNED == 0 and columns % (2 * _ALIGNED) == 0:
            self._prepare(weight)

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the product's gated half.

        Args:
            x: [rows, inner], contiguous.
            weight: [columns, inner], contiguous: gates, then values.

        Returns:
            [rows, columns / 2]
        """
        if self._multiply is None:
            return silu_mul(functional.linear(x, weight))
        return self._in_one(x, weight, self._tile(x.shape[0], weight.shape[0]))

    def _prepare(self, weight: Tensor) -> None:
        """Compile all tile sizes that can occur, which takes seconds, before the first request."""
        properties = torch.cuda.get_device_properties(weight.device)
        if properties.major != 9 or weight.dtype not in (torch.bfloat16, torch.float16):
            return
        try:
            from quack.gemm_config import GemmConfig
            from quack.gemm_interface import gemm_act
        except ImportError:
            return
        self._multiply, self._config = gemm_act, GemmConfig
        self._multiprocessors = properties.multi_processor_count
        x = weight.new_zeros(_LOW, weight.shape[1])
        try:
            for tile in sorted({self._tile(rows, weight.shape[0]) for rows in (_LOW, _HIGH, 2 * _HIGH, 1 << 14)}):
                self._in_one(x, weight, tile)
        except Exception as error:  # whatever the compiler raises: there is another way
            logging.warning("MLPs use a separate kernel for their gate: %s: %s", type(error).__name__, error)
            self._multiply = None

    def _tile(self, rows: int, columns: int) -> tuple[int, int, int]:
        """Return a tile's rows and columns, and how many tiles share the weights that they read.

        A multiprocessor computes its tiles one after another, each in a time that grows with its width.
        """
        height = _LOW if rows <= _LOW else _HIGH
        down = -(-rows // height)

        def rounds(width: int) -> int:
            return -(-down * -(-columns // width) // self._multiprocessors)

        width = min(_WIDTHS, key=lambda width: rounds(width) * width)
        return height, width, 2 if down > 1 else 1

    def _in_one(self, x: Tensor, weight: Tensor, tile: tuple[int, int, int]) -> Tensor:
        height, width, shared = tile
        config = self._config(
            tile_m=height,
            tile_n=width,
            cluster_m=shared,
            cluster_n=1,
            pingpong=False,
            is_dynamic_persistent=False,
            device_capacity=9,
        )
        out = x.new_empty(x.shape[0], weight.shape[0] // 2)
        self._multiply(
            x,
            weight.detach().t(),
            activation="swiglu",
            postact_out=out,
            store_preact=False,
            concat_layout=("B",),
            config=config,
        )
        return out
