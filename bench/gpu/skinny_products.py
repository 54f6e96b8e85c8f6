"""Products of few rows with a layer's weights: this project's kernels and cuBLAS, microseconds and GB/s.

    python bench/gpu/skinny_products.py [--tune]

Runs in the ranks' environment on one GPU. Llama-3.1-8B's layers, whole and half of them, bfloat16; medians of CUDA
graphs' replays over so many weights that none is in the cache.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src/trition_repo_gen"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from runtime.fused import skinny
from runtime.fused.kernels import silu_mul
from torch import Tensor
from torch.nn import functional

from bench.gpu import graph_time

LAYERS = {
    "qkv": (6144, 4096, False),
    "projection": (4096, 4096, True),
    "gated": (28672, 4096, False),
    "down": (4096, 14336, True),
    "qkv, half": (3072, 4096, False),
    "projection, half": (4096, 2048, True),
    "gated, half": (14336, 4096, False),
    "down, half": (4096, 7168, True),
}
"""Columns of the product, its inner size, and whether it is added to the residual stream."""
_BYTES = 1 << 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tune", action="store_true", help="try other sizes of the kernel as well")
    arguments = parser.parse_args()
    settings = [(skinny._COLUMNS, skinny._DEPTH, skinny._WARPS)]
    if arguments.tune:
        settings = [(8, 512, 4), (4, 512, 4), (4, 1024, 4), (8, 256, 4), (16, 256, 4), (8, 1024, 8), (16, 512, 8)]
    for rows in (1, 2):
        totals: dict[Any, float] = {}
        for name, (columns, inner, added) in LAYERS.items():
            problem = Problem(rows, columns, inner, added, gated=name.startswith("gated"))
            cublas = problem.microseconds(problem.cublas)
            found = []
            for sizes in settings:
                skinny._COLUMNS, skinny._DEPTH, skinny._WARPS = sizes
                try:
                    found.append((problem.microseconds(problem.ours), sizes))
                except Exception as error:  # a size that the GPU has no room for
                    print(f"  {sizes}: {type(error).__name__}")
            for taken, sizes in found:
                key = ("half" if "half" in name else "whole", sizes)
                totals[key] = totals.get(key, 0.0) + taken
            best = ", ".join(f"{taken:.1f} with {sizes}" for taken, sizes in sorted(found)[:3])
            print(f"{rows} rows, {name}: cuBLAS {problem.report(cublas)}; ours {problem.report(min(found)[0])}: {best}")
            print(f"  largest difference {problem.difference():.4f}")
            whole = ("half" if "half" in name else "whole", "cuBLAS")
            totals[whole] = totals.get(whole, 0.0) + cublas
        for taken, key in sorted((taken, str(key)) for key, taken in totals.items()):
            print(f"  {rows} rows, a layer: {taken:.1f} us, {key}")


class Problem:
    """Rows and weights, more of them than the cache holds."""

    def __init__(self, rows: int, columns: int, inner: int, added: bool, *, gated: bool):
        make = {"device": "cuda", "dtype": torch.bfloat16}
        self.bytes = 2 * columns * inner
        self.weights = [torch.randn(columns, inner, **make) * 0.02 for _ in range(max(4, _BYTES // self.bytes))]
        self.x = torch.randn(rows, inner, **make)
        self.residual = torch.randn(rows, columns, **make) if added else None
        self.gated = gated

    def cublas(self, weight: Tensor) -> Tensor:
        if self.residual is not None:
            return torch.addmm(self.residual, self.x, weight.t())
        product = functional.linear(self.x, weight)
        return silu_mul(product) if self.gated else product

    def ours(self, weight: Tensor) -> Tensor:
        if self.gated:
            return skinny.gated_product(self.x, weight)
        return skinny.product(self.x, weight, residual=self.residual)

    def microseconds(self, call: Callable[[Tensor], Tensor]) -> float:
        def all_weights() -> None:
            for weight in self.weights:
                call(weight)

        return graph_time.microseconds(all_weights, 1) / len(self.weights)

    def report(self, taken: float) -> str:
        return f"{taken:.1f} us, {self.bytes / taken / 1e3:.0f} GB/s"

    def difference(self) -> float:
        weight = self.weights[0]
        return float((self.ours(weight) - self.cublas(weight)).abs().max())


if __name__ == "__main__":
    main()
