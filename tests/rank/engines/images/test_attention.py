"""Attention over the paged cache is dense attention, and the cache counts its blocks."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from trition_repo_gen.runtime.rank.engines.images.attention import Batch, CachedAttention, Span
from trition_repo_gen.runtime.rank.engines.images.kv_cache import BLOCK_SIZE, KVCache

HEADS, GROUPS, SIZE = 4, 2, 8
CPU = torch.device("cpu")
LENGTHS = {1: 200, 2: 5, 3: BLOCK_SIZE}
"""Of the prompts; the first is too long to be padded to with the others. Two tokens are generated for each."""


@pytest.fixture
def cache() -> KVCache:
    """A cache of eight blocks."""
    return KVCache(1, GROUPS, SIZE, 8 * 2 * BLOCK_SIZE * GROUPS * SIZE * 4, torch.float32, CPU)


def take_all(cache: KVCache) -> None:
    """Take blocks for each of the sequences."""
    for sequence, length in LENGTHS.items():
        cache.take(sequence, length + 2)


def test_cached_attention_is_dense_attention_whoever_joins(cache: KVCache) -> None:
    q, k, v = (
        {sequence: torch.randn(length + 2, count, SIZE) for sequence, length in LENGTHS.items()}
        for count in (HEADS, GROUPS, GROUPS)
    )
    attention = CachedAttention(0, cache, SIZE**-0.5)
    take_all(cache)

    def step(*spans: Span) -> dict[Span, Tensor]:
        attention.batch = Batch(spans, cache, CPU)
        packed = [torch.cat([each[s.request_id][s.start : s.stop] for s in spans])[:, None] for each in (q, k, v)]
        parts = attention(*packed).squeeze(1).split([len(span) for span in spans])
        return dict(zip(spans, parts, strict=True))

    def dense(span: Span) -> Tensor:
        queries, keys, values = (each[span.request_id][: span.stop].transpose(0, 1)[None] for each in (q, k, v))
        out = scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
        return out[0].transpose(0, 1).flatten(1)[span.start :]

    outputs = step(Span(1, 0, 200))
    outputs |= step(Span(1, 200, 201), Span(2, 0, 5))  # a prompt joins while another sequence decodes
    outputs |= step(Span(2, 5, 6), Span(3, 0, BLOCK_SIZE), Span(1, 201, 202))
    outputs |= step(Span(3, BLOCK_SIZE, BLOCK_SIZE + 1), Span(2, 6, 7))
    for span, out in outputs.items():
        assert float((out - dense(span)).abs().max()) < 1e-5, span


def test_blocks_are_taken_and_given_back(cache: KVCache) -> None:
    assert cache.room // BLOCK_SIZE == 8
    take_all(cache)
    assert cache.usage == 7 / 8  # four blocks, one, and two
    cache.give_back(1)
    assert [cache.fits(5 * BLOCK_SIZE), cache.fits(5 * BLOCK_SIZE + 1)] == [True, False]
    for sequence in (2, 3):
        cache.give_back(sequence)
    assert cache.usage == 0
