"""Norms, activations, gates and rotations: Triton's kernels, interpreted, against plain torch."""

import pytest
import torch
from torch.nn import functional

from tests.rank.engines.core.fused.plain_torch import EPS, TOLERANCE, distance, split_and_rotate
from trition_repo_gen.runtime.rank.engines.core.fused.gate import GatedProduct
from trition_repo_gen.runtime.rank.engines.core.fused.kernels import (
    Places,
    RotaryParameters,
    rms_norm,
    rotate_and_store,
    silu_mul,
)


def test_rms_norm_of_rows_whose_length_is_no_power_of_two() -> None:
    x, weight = torch.randn(3, 48), torch.randn(48)
    assert distance(rms_norm(x, weight, EPS), functional.rms_norm(x, (48,), weight, EPS)) < TOLERANCE


def test_silu_mul_of_rows_of_more_than_one_block() -> None:
    x = torch.randn(2, 2 * 1500)
    gate, value = x.chunk(2, dim=-1)
    assert distance(silu_mul(x), functional.silu(gate) * value) < TOLERANCE


def test_a_gated_product_without_quack_or_its_gpu() -> None:
    x, weight = torch.randn(3, 64), torch.randn(256, 64) / 8
    gate, value = functional.linear(x, weight).chunk(2, dim=-1)
    assert distance(GatedProduct(weight)(x, weight), functional.silu(gate) * value) < TOLERANCE


@pytest.mark.parametrize("heads", [1, 3, 4])
@pytest.mark.parametrize("rotated", [24, 16, 0])
@pytest.mark.parametrize("normed", [False, True])
def test_rotate_and_store(heads: int, rotated: int, normed: bool) -> None:
    """Two groups, a head size that is no power of two, a paged cache whose other places must not change."""
    groups, size, tokens = 2, 24, 5
    mixed = torch.randn(tokens, groups * (heads + 2) * size)
    cache = torch.randn(2, 4, 8, groups, size)
    expected_cache = cache.clone()
    blocks, slots = torch.tensor([3, 3, 0, 1, 1], dtype=torch.int32), torch.tensor([6, 7, 0, 2, 5])
    positions = torch.tensor([6, 7, 30, 2, 11])
    angles = torch.randn(32, rotated // 2)
    table = torch.cat((angles.cos(), angles.sin()), dim=-1) if rotated else None
    query_norm, key_norm = (torch.randn(size), torch.randn(size)) if normed else (None, None)
    rotary = RotaryParameters(table, query_norm, key_norm, EPS)

    query = rotate_and_store(mixed, groups, cache[0], cache[1], Places(blocks, slots, positions), rotary)

    queries, key, value = split_and_rotate(mixed, groups, size, angles[positions], query_norm, key_norm)
    expected_cache[0, blocks.long(), slots] = key
    expected_cache[1, blocks.long(), slots] = value
    assert distance(query, queries.reshape(tokens, 1, groups * heads, size)) < TOLERANCE
    assert distance(cache, expected_cache) < TOLERANCE
