"""Steps have CUDA graphs that Megatron Core does not record: of few sequences, and of many tokens."""

from types import SimpleNamespace
from typing import Any

import pytest
from megatron.core.inference.batch_dimensions_utils import CUDAGraphBatchDimensionBuilder, InferenceBatchDimensions

from trition_repo_gen.runtime.rank.engines.core import upstream

LIMITS = {"max_requests": 256, "max_tokens": 16384}
STEPS = {
    "one sequence decodes": InferenceBatchDimensions(1, 0, 1),
    "three sequences decode": InferenceBatchDimensions(3, 0, 3),
    "a few prompts": InferenceBatchDimensions(300, 10, 20),
    "prompts beside many sequences": InferenceBatchDimensions(890, 22, 230),
    "one long prompt": InferenceBatchDimensions(1700, 1, 255),
    "more than is recorded": InferenceBatchDimensions(2049, 30, 0),
}
MEGATRON_CORE = {
    "one sequence decodes": 2,
    "three sequences decode": 4,
    "a few prompts": 512,
    "prompts beside many sequences": None,
    "one long prompt": None,
    "more than is recorded": None,
}
ADDED = {"one sequence decodes": 1, "prompts beside many sequences": 1024, "one long prompt": 2048}


def tokens_of_graphs(*, with_prompts: bool, add: bool) -> dict[str, int | None]:
    """Return the tokens of the graph that each step is replayed with, on 2 tensor-parallel ranks."""
    recorded, _ = CUDAGraphBatchDimensionBuilder.generate_cuda_graph_batch_dimensions_list(
        tp_size=2,
        num_cuda_graphs=16,
        cuda_graph_max_tokens=512,
        cuda_graph_mixed_prefill_request_count=16,
        max_sequence_length=4096,
        use_cuda_graphs_for_non_decode_steps=with_prompts,
        **LIMITS,
    )
    context: Any = SimpleNamespace(
        cuda_graph_batch_dimensions_list=recorded,
        use_cuda_graphs_for_non_decode_steps=with_prompts,
        max_sequence_length=4096,
        **LIMITS,
    )
    if add:
        upstream.record_few_sequences(context, 2)
        upstream.record_long_steps(context, 2)
    assert all(graph.is_valid(256, 4096, 0) for graph in recorded)
    assert len(set(recorded)) == len(recorded)
    found = {name: CUDAGraphBatchDimensionBuilder.match_graph_config(step, recorded) for name, step in STEPS.items()}
    return {name: None if graph is None else graph.token_count for name, graph in found.items()}


def test_megatron_core_does_not_record_them() -> None:
    """Where this fails, one of the two functions of upstream.py is needed no more."""
    assert tokens_of_graphs(with_prompts=True, add=False) == MEGATRON_CORE


def test_steps_of_few_sequences_and_of_many_tokens_are_recorded() -> None:
    assert tokens_of_graphs(with_prompts=True, add=True) == MEGATRON_CORE | ADDED


def test_where_only_decoding_is_recorded_long_steps_are_not() -> None:
    nothing = {"a few prompts": None, "prompts beside many sequences": None, "one long prompt": None}
    assert tokens_of_graphs(with_prompts=False, add=True) == MEGATRON_CORE | ADDED | nothing


@pytest.mark.parametrize(
    ("max_requests", "max_sequence_length", "ranks", "tokens"),
    [
        (256, 4096, 1, [2048, 1536, 1024]),
        (4, 256, 1, [1024]),
        (1, 1600, 1, [1536, 1024]),
        (1600, 4096, 1, [2048]),
        (256, 4096, 3, [1536]),
    ],
)
def test_long_steps_are_those_that_sequences_can_fill_and_ranks_can_share(
    max_requests: int, max_sequence_length: int, ranks: int, tokens: list[int]
) -> None:
    context: Any = SimpleNamespace(
        cuda_graph_batch_dimensions_list=[InferenceBatchDimensions(1, 0, 1)],
        use_cuda_graphs_for_non_decode_steps=True,
        max_requests=max_requests,
        max_tokens=16384,
        max_sequence_length=max_sequence_length,
    )
    upstream.record_long_steps(context, ranks)
    assert [graph.token_count for graph in context.cuda_graph_batch_dimensions_list[:-1]] == tokens
