from typing import Any

import pytest

from trition_repo_gen.runtime.common.settings import Settings
from trition_repo_gen.runtime.rank.engines.memory import GIB, ModelSizes, kv_cache_bytes, tokens_per_step, working_bytes

DENSE = ModelSizes(
    hidden_size=4096,
    ffn_hidden_size=14336,
    num_attention_heads=32,
    num_query_groups=8,
    kv_channels=128,
    num_moe_experts=0,
    moe_ffn_hidden_size=0,
    moe_router_topk=0,
    vocab_size=128256,
)


def settings(**changes: Any) -> Settings:
    return Settings(checkpoint="/c", **changes)


@pytest.mark.parametrize(
    ("changes", "gib"),
    [
        ({"kv_cache_gib": 3.0}, 3.0),
        ({"kv_cache_gib": 3.0, "kv_cache_fraction": 0.5, "gpu_memory_utilization": 0.1}, 3.0),
        ({"kv_cache_fraction": 0.5}, 30.0),
        ({"kv_cache_fraction": 0.5, "gpu_memory_utilization": 0.1}, 30.0),
        ({"gpu_memory_utilization": 0.75}, 35.0),
        ({"gpu_memory_utilization": 0.25}, -5.0),
    ],
)
def test_what_the_kv_cache_gets(changes: Any, gib: float) -> None:
    assert kv_cache_bytes(settings(**changes), total=80 * GIB, free=60 * GIB, working=5 * GIB) == gib * GIB


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({}, 16384),
        ({"max_sequence_length": 32768}, 32768),
        ({"enable_chunked_prefill": True, "chunked_prefill_size": 2048, "max_sequence_length": 32768}, 2048),
        ({"enable_chunked_prefill": True, "chunked_prefill_size": 128, "max_requests": 256}, 256),
    ],
)
def test_the_longest_step(changes: Any, tokens: int) -> None:
    assert tokens_per_step(settings(**changes)) == tokens


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({}, {"enable_cuda_graphs": True}),
        ({}, {"max_requests": 512}),
        ({}, {"params_dtype": "float32"}),
        ({}, {"max_sequence_length": 32768}),
        ({"tensor_parallel_size": 2}, {}),
        ({"enable_chunked_prefill": True}, {}),
    ],
)
def test_what_takes_more_memory(less: Any, more: Any) -> None:
    assert 0 < working_bytes(DENSE, settings(**less)) < working_bytes(DENSE, settings(**more))


def test_sizes_are_taken_from_what_has_them() -> None:
    class Config:
        hidden_size, ffn_hidden_size, num_attention_heads, num_query_groups, kv_channels = 4096, 14336, 32, 8, 128
        num_moe_experts = moe_ffn_hidden_size = None
        moe_router_topk = 0

    assert ModelSizes.of(Config(), 128256) == DENSE
