"""A decoding step's attention in one kernel, interpreted, against plain torch."""

import pytest
import torch

from tests.rank.engines.core.fused.plain_torch import EPS, TOLERANCE, distance, split_and_rotate
from trition_repo_gen.runtime.rank.engines.core.fused import decoding
from trition_repo_gen.runtime.rank.engines.core.fused.kernels import Places, RotaryParameters

GROUPS, SIZE, BLOCK, SCALE = 2, 32, 128, 0.2
LENGTHS = [0, 1, 2, 64, 65, 66, 300]
"""Tokens of each sequence: none, one, several tiles and blocks."""


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("window", [-1, 0, 70])
@pytest.mark.parametrize("programs", [1, 264])
@pytest.mark.parametrize("rotated", [0, 32, 16])
def test_decode(heads: int, window: int, programs: int, rotated: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences whose blocks lie anywhere in the cache, and the cache has the newest token only afterwards."""
    monkeypatch.setattr(decoding, "_PROGRAMS", programs)
    cache = torch.randn(2, 19, BLOCK, GROUPS, SIZE)
    table = torch.full((len(LENGTHS), 3), -1, dtype=torch.int32)
    table[:, :2] = torch.randperm(18)[: 2 * len(LENGTHS)].view(-1, 2)
    table[-1, 2] = 18
    mixed = torch.randn(len(LENGTHS), GROUPS * (heads + 2) * SIZE)
    positions = torch.tensor([max(0, length - 1) for length in LENGTHS])
    blocks, slots = table.gather(1, positions[:, None] // BLOCK)[:, 0], positions % BLOCK
    angles = torch.randn(300, rotated // 2)
    # Heads are rotated or normed here, so that a case for each is enough.
    query_norm, key_norm = (None, None) if rotated else (torch.randn(SIZE), torch.randn(SIZE))
    rotation = torch.cat((angles.cos(), angles.sin()), dim=-1) if rotated else None
    rotary = RotaryParameters(rotation, query_norm, key_norm, EPS)
    queries, key, value = split_and_rotate(mixed, GROUPS, SIZE, angles[positions], query_norm, key_norm)
    expected_cache = cache.clone()
    expected_cache[0, blocks.long(), slots] = key
    expected_cache[1, blocks.long(), slots] = value
    cache[:, blocks.long(), slots] = float("nan")  # the newest token must not be read from there

    out = decoding.decode(
        mixed,
        GROUPS,
        cache[0],
        cache[1],
        Places(blocks, slots, positions),
        rotary,
        table,
        torch.tensor(LENGTHS, dtype=torch.int32),
        SCALE,
        window,
    )

    assert distance(cache, expected_cache) < TOLERANCE
    assert float(out[0].abs().max()) < TOLERANCE  # the first sequence has no token
    for sequence, length in list(enumerate(LENGTHS))[1:]:
        keys, values = (part[table[sequence].long()].flatten(0, 1)[:length] for part in expected_cache)
        oldest = max(0, length - 1 - window) if window >= 0 else 0
        for head in range(GROUPS * heads):
            group = head // heads
            scores = keys[oldest:, group] @ queries[sequence, group, head % heads] * SCALE
            expected = scores.softmax(dim=0) @ values[oldest:, group]
            assert distance(out[sequence, 0, head], expected) < TOLERANCE, (length, head)
