from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="module")
def outcome(in_megatron: Callable[..., Any]) -> Any:
    return in_megatron(__file__, "backend_driver.py")


def test_after_import_wants_install_first(outcome: Any) -> None:
    assert outcome["early"].startswith("RuntimeError: The CPU backend's after_import comes after")


def test_torch_cuda_answers_for_the_cpu(outcome: Any) -> None:
    assert outcome["facade"] == {
        "meta": "meta",  # transformers loads models in this context
        "devices": ["cpu", "cpu", "cpu"],
        "elapsed": True,
        "same random numbers": True,
        "available": False,
        "transformer_engine": True,
    }


@pytest.mark.parametrize("part", ["norms", "linears", "attention"])
def test_layers_compute_what_their_names_say(part: str, outcome: Any) -> None:
    distances = outcome[part] if part == "norms" else outcome[part]["distance"]
    assert max(distances.values()) < 2e-5, distances


def test_layers_have_transformer_engines_parameter_names(outcome: Any) -> None:
    assert outcome["linears"]["parameters"] == {
        "TELinear": ["bias", "weight"],
        "TEColumnParallelLinear": ["bias", "weight"],
        "TELayerNormColumnParallelLinear": ["bias", "layer_norm_weight", "weight"],
        "TERowParallelLinear": ["bias", "weight"],
    }


def test_layers_are_saved_under_the_names_that_a_gpu_has(outcome: Any) -> None:
    assert outcome["linears"]["module"] == "megatron.core.extensions.transformer_engine"


def test_attention_of_a_context_parallel_rank_is_built_but_not_called(outcome: Any) -> None:
    assert outcome["attention"]["context parallel"].startswith("NotImplementedError")
    assert "context_parallel_size 1" in outcome["attention"]["context parallel"]


def test_nothing_needs_a_compiler(outcome: Any) -> None:
    assert not outcome["compiled"]


def test_expert_parallelism_chooses_the_dispatcher(outcome: Any) -> None:
    assert outcome["dispatchers"] == ["allgather", "alltoall"]
