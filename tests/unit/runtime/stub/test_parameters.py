"""What Triton's `generate` knows no input for reaches the model as a parameter."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from trition_repo_gen.runtime.common.wire import BadRequestError
from trition_repo_gen.runtime.stub import trtllm
from trition_repo_gen.runtime.stub.parameters import check_parameters
from trition_repo_gen.runtime.stub.requests import INPUTS


@dataclass
class Request:
    """A request of the Python backend, whose parameters are JSON."""

    values: dict[str, Any]

    def parameters(self) -> str:
        return json.dumps(self.values)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"queue_priority": 1, "id": "7"},
        # What Triton makes of headers with --http-header-forward-pattern=.* and --grpc-header-forward-pattern=.*
        {"Accept-Encoding": "identity", "Host": "a:8000", "User-Agent": "b", "Traceparent": "00-aa", "Connection": "c"},
        {"triton_grpc_error": "true", "user-agent": "grpc-python", "x-forward": "a", "traceparent": "00-aa"},
    ],
)
def test_what_triton_and_its_operator_add(values: dict[str, Any]) -> None:
    check_parameters(Request(values), INPUTS)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("max_tokens", "max_length"),  # REST's, TensorRT-LLM's
        ("max_new_tokens", "max_length"),
        ("max_lenght", "max_length"),
        ("Max_Length", "max_length"),
        ("min_tokens", "min_length"),
        ("temprature", "temperature"),
        ("topk", "top_k"),
        ("top_K", "top_k"),
        ("seed", "random_seed"),
        ("stop", "stop_words"),
        ("stop_word", "stop_words"),
        ("logprobs", "compute_logprob"),
        ("prompt", "prompts"),
        ("text_input", "prompts"),
        ("image", "images"),
        ("repeat_penalty", "repetition_penalty"),
        ("use_gredy", "use_greedy"),
    ],
)
@pytest.mark.parametrize("value", [3, "text", True, 0.5])
def test_a_misspelt_input_is_refused_with_the_nearest(name: str, nearest: str, value: Any) -> None:
    with pytest.raises(BadRequestError, match=f"^There is no parameter '{name}'; write '{nearest}'\\.$"):
        check_parameters(Request({name: value}), INPUTS)


@pytest.mark.parametrize(("name", "nearest"), [("max_length", "max_tokens"), ("prompts", "text_input")])
def test_the_alias_names_its_own_inputs(name: str, nearest: str) -> None:
    with pytest.raises(BadRequestError, match=f"^There is no parameter '{name}'; write '{nearest}'\\.$"):
        check_parameters(Request({name: 3}), trtllm.INPUTS)


def test_what_is_like_nothing() -> None:
    with pytest.raises(
        BadRequestError, match=r"^There is no parameter 'qqq'; there are apply_chat_template, .*, top_k"
    ):
        check_parameters(Request({"qqq": 1}), INPUTS)


def test_images_for_a_text_model() -> None:
    with pytest.raises(BadRequestError, match=r"^This model has no input 'images'; leave it out"):
        check_parameters(Request({"images": "AA=="}), INPUTS)
