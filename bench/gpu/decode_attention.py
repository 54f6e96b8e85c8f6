"""Attention of a decoding step over a paged cache: this project's kernels and FlashAttention 4, in microseconds.

    python bench/gpu/decode_attention.py [--tune]

Runs in the ranks' environment on one GPU. Llama-3.1-8B's heads, bfloat16; medians of CUDA graphs' replays, which is how
the engine runs both.
"""

import argparse
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src/trition_repo_gen"))

import torch
from runtime.rank.engines.core.fused import decoding
from runtime.rank.engines.core.fused.kernels import Places, RotaryParameters, rotate_and_store

from bench.gpu.timing import microseconds

GROUPS, HEADS, SIZE, BLOCK_TOKENS = 8, 32, 128, 256
CASES = ((1, 192), (1, 4096), (1, 32768), (64, 192), (64, 2048), (256, 192), (256, 1024))
"""Rows, and tokens of each."""
_CALLS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tune", action="store_true", help="try other sizes of the kernel as well")
    arguments = parser.parse_args()
    settings = [(decoding._TILE, decoding._WARPS, decoding._STAGES, decoding._PROGRAMS)]
    if arguments.tune:
        settings = [*itertools.product((32, 64, 128), (4,), (2, 3), (264, 528)), (64, 2, 3, 264), (128, 8, 2, 264)]
    for rows, length in CASES:
        problem = Problem(rows, length)
        print(f"{rows} rows of {length}: FlashAttention 4 {problem.report(problem.flash_attention)}")
        found = []
        for sizes in settings:
            decoding._TILE, decoding._WARPS, decoding._STAGES, decoding._PROGRAMS = sizes
            try:
                found.append((microseconds(problem.ours, _CALLS), sizes))
            except Exception as error:  # a size that the GPU has no room for
                print(f"  {sizes}: {type(error).__name__}")
        for taken, sizes in sorted(found):
            print(f"  ours {taken:.1f} us, {problem.bytes / taken / 1e3:.0f} GB/s, with {sizes}")
        print(f"  largest difference {problem.difference():.4f}")


class Problem:
    """Queries and a cache of which each row has `length` tokens, in blocks that lie anywhere."""

    def __init__(self, rows: int, length: int):
        device = torch.device("cuda")
        blocks = -(-length // BLOCK_TOKENS)
        shape = (rows * blocks, BLOCK_TOKENS, GROUPS, SIZE)
        self.keys, self.values = (torch.randn(shape, device=device, dtype=torch.bfloat16) for _ in range(2))
        self.mixed = torch.randn(rows, (HEADS + 2 * GROUPS) * SIZE, device=device, dtype=torch.bfloat16)
        order = torch.randperm(rows * blocks, device=device, dtype=torch.int32)
        self.table = order.view(rows, blocks)
        self.lengths = torch.full((rows,), length, device=device, dtype=torch.int32)
        newest = torch.full((rows,), length - 1, device=device, dtype=torch.int32)
        self.places = Places(self.table[:, -1].contiguous(), newest % BLOCK_TOKENS, newest)
        angles = torch.randn(length, SIZE // 2, device=device)
        self.rotary = RotaryParameters(torch.cat((angles.cos(), angles.sin()), dim=-1), None, None, 0.0)
        self.query = rotate_and_store(self.mixed, GROUPS, self.keys, self.values, self.places, self.rotary)
        self.starts = torch.arange(rows + 1, device=device, dtype=torch.int32)
        self.longest = length
        self.bytes = 2 * rows * length * GROUPS * SIZE * 2

    def ours(self) -> torch.Tensor:
        return decoding.decode(
            self.mixed,
            GROUPS,
            self.keys,
            self.values,
            self.places,
            self.rotary,
            self.table,
            self.lengths,
            SIZE**-0.5,
        )

    def flash_attention(self) -> torch.Tensor:
        from flash_attn.cute import flash_attn_varlen_func

        out, _ = flash_attn_varlen_func(
            self.query[:, 0],
            self.keys,
            self.values,
            cu_seqlens_q=self.starts,
            max_seqlen_q=1,
            max_seqlen_k=self.longest,
            seqused_k=self.lengths,
            page_table=self.table,
            softmax_scale=SIZE**-0.5,
            causal=True,
            num_splits=1,
        )
        return out[:, None]

    def difference(self) -> float:
        return float((self.ours().float() - self.flash_attention().float()).abs().max())

    def report(self, compute: Callable[[], torch.Tensor]) -> str:
        taken = microseconds(compute, _CALLS)
        return f"{taken:.1f} us, {self.bytes / taken / 1e3:.0f} GB/s"


if __name__ == "__main__":
    main()
