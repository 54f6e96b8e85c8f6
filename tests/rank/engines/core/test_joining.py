"""Sequences that join a step together are where they would be had they joined one by one."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from megatron.core import parallel_state
from megatron.core.inference.config import InferenceConfig
from megatron.core.inference.contexts.dynamic_context import DynamicInferenceContext
from megatron.core.inference.inference_request import DynamicInferenceRequest
from megatron.core.inference.sampling_params import SamplingParams
from megatron.core.transformer.transformer_config import TransformerConfig

from tests.rank.processes import one_rank
from trition_repo_gen.runtime.rank.engines.core.joining import let_in

BLOCK = 64
GROUPS = ((64, 1, 130), (65, 64, 63, 200))
"""Lengths of the prompts that join together."""
PLACES = {"request_to_kv_block_ids", "request_last_kv_block_id", "token_to_block_idx"}
"""Which blocks of the KV cache a sequence has: any will do."""


@pytest.fixture(scope="module", autouse=True)
def _megatron() -> Iterator[None]:
    with one_rank():
        parallel_state.initialize_model_parallel()
        yield


@pytest.fixture(scope="module")
def groups() -> list[list[DynamicInferenceRequest]]:
    ids = iter(range(10, 30))
    return [
        [
            DynamicInferenceRequest(
                request_id=next(ids),
                prompt_tokens=torch.randint(0, 100, (length,)),
                sampling_params=SamplingParams(num_tokens_to_generate=5 + length, termination_id=length, top_k=1),
                block_size_tokens=BLOCK,
            )
            for length in group
        ]
        for group in GROUPS
    ]


Join = Callable[[DynamicInferenceContext, list[DynamicInferenceRequest]], None]


def one_by_one(context: DynamicInferenceContext, group: list[DynamicInferenceRequest]) -> None:
    for request in group:
        context.add_request(request)


def state_after(join: Join, groups: list[list[DynamicInferenceRequest]]) -> dict[str, Any]:
    """Return what a context says of its sequences and tokens after they joined, and how many blocks they took."""
    config = TransformerConfig(num_layers=1, hidden_size=16, num_attention_heads=2, params_dtype=torch.float32)
    inference = InferenceConfig(
        max_sequence_length=512, max_requests=16, max_tokens=1024, block_size_tokens=BLOCK, buffer_size_gb=0.01
    )
    context = DynamicInferenceContext(config, inference)
    available = context.kv_block_allocator.total_avail
    for group in groups:
        join(context, group)
    metadata = {name for name, _ in DynamicInferenceRequest.get_metadata_types()}
    sequences, tokens = context.total_request_count, context.active_token_count
    state: dict[str, Any] = {name: value for name, value in vars(context).items() if isinstance(value, int)}
    state |= {
        name: value[: tokens if name.startswith("token_to") else sequences].tolist()
        for name, value in (vars(context) | context.request_metadata).items()
        if isinstance(value, torch.Tensor) and (name.startswith(("request_", "token_to_")) or name in metadata)
    }
    return state | {"blocks taken": available - context.kv_block_allocator.total_avail}


def blocks_of(state: dict[str, Any]) -> list[list[int]]:
    """Return the blocks of the KV cache that each sequence has."""
    return [[block for block in sequence if block != -1] for sequence in state["request_to_kv_block_ids"]]


def test_sequences_that_join_together_are_where_they_would_be_one_by_one(
    groups: list[list[DynamicInferenceRequest]],
) -> None:
    expected, state = state_after(one_by_one, groups), state_after(let_in, groups)

    counts = {"active_token_count", "total_request_count", "num_prefill_requests", "lifetime_prefill_token_count"}
    sequences = {"request_ids", "request_output_lengths", "request_kv_block_counts", "termination_id", "top_k"}
    assert counts | sequences | {"token_to_input_ids", "token_to_request_idx"} <= expected.keys() - PLACES
    assert [name for name in expected if name not in PLACES and expected[name] != state[name]] == []


def test_sequences_that_join_together_have_blocks_of_their_own(groups: list[list[DynamicInferenceRequest]]) -> None:
    expected, state = state_after(one_by_one, groups), state_after(let_in, groups)

    blocks = blocks_of(state)
    counts = [len(sequence) for sequence in blocks]
    assert counts == [len(sequence) for sequence in blocks_of(expected)] == [1, 1, 3, 2, 1, 1, 4]
    assert state["blocks taken"] == len({block for sequence in blocks for block in sequence}) == 13
    assert state["request_last_kv_block_id"] == [sequence[-1] for sequence in blocks]
    positions = zip(state["token_to_request_idx"], state["token_to_pos_ids"], strict=True)
    assert state["token_to_block_idx"] == [blocks[sequence][position // BLOCK] for sequence, position in positions]
