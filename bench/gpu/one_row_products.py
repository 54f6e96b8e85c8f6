"""A layer's products of one row, of a Llama-3.1-8B whole and cut for two ranks, in microseconds.

    python bench/gpu/one_row_products.py [--tune]

Runs in the ranks' environment on one GPU, in bfloat16; medians of CUDA graphs' replays, as the engine runs them.
"""

import argparse
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src/trition_repo_gen"))

import torch
from runtime.rank.engines.core.fused import one_row

from bench.gpu.timing import microseconds

SHAPES = {
    "whole": ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)),
    "half": ((3072, 4096), (4096, 2048), (14336, 4096), (4096, 7168)),
}
"""Columns and inner sizes of the products before and after attention, and before and after the gate."""
_LAYERS = 6
"""Together more weights than a GPU's cache holds."""
_CALLS = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tune", action="store_true", help="try other sizes of the kernel as well")
    arguments = parser.parse_args()
    settings = [(one_row._BLOCK_OUT, one_row._BLOCK_IN, one_row._WARPS)]
    if arguments.tune:
        settings = list(itertools.product((2, 4, 8), (512, 1024), (2, 4, 8)))
    for name in SHAPES:
        products = Products(name)
        for sizes in settings:
            one_row._BLOCK_OUT, one_row._BLOCK_IN, one_row._WARPS = sizes
            taken = microseconds(products.compute, _CALLS)
            print(f"{name}: {taken:.1f} us a layer, {products.bytes / taken / 1e3:.0f} GB/s, with {sizes}")


class Products:
    """Random weights of a few layers, and one row that goes through one after another."""

    def __init__(self, shapes: str, device: str = "cuda"):
        def random(*shape: int) -> torch.Tensor:
            return torch.randn(shape, device=device, dtype=torch.bfloat16) / shape[-1] ** 0.5

        layers = [[random(*shape) for shape in SHAPES[shapes]] for _ in range(_LAYERS)]
        self.bytes = sum(weight.nbytes for weight in layers[0])
        self._layers = itertools.cycle(layers)
        self._residual = random(1, SHAPES[shapes][0][1])
        self._attended = random(1, SHAPES[shapes][1][1])
        self._norm = random(SHAPES[shapes][0][1])

    def compute(self) -> torch.Tensor:
        """Compute the next layer's products, without attention between them."""
        mixed, projection, gated, last = next(self._layers)
        norm = {"norm": self._norm, "eps": 1e-5}
        one_row.product(self._residual, mixed, **norm)
        one_row.add_product(self._residual, self._attended, projection, in_place=True)
        inner = one_row.gated_product(self._residual, gated, **norm)
        return one_row.add_product(self._residual, inner, last, in_place=True)


if __name__ == "__main__":
    main()
