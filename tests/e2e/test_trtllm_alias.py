"""The alias with TensorRT-LLM's tensors: what Triton's OpenAI frontend sends, by an ordinary Triton client."""

import queue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from tests.e2e.serving import PROMPTS, Serving

TYPES: dict[str, tuple[str, Any]] = {
    "text_input": ("BYTES", np.object_),
    "max_tokens": ("INT32", np.int32),
    "stop_words": ("BYTES", np.object_),
    "stream": ("BOOL", np.bool_),
    "temperature": ("FP32", np.float32),
    "top_p": ("FP32", np.float32),
    "frequency_penalty": ("FP32", np.float32),
    "presence_penalty": ("FP32", np.float32),
    "seed": ("UINT64", np.uint64),
    "beam_width": ("INT32", np.int32),
    "exclude_input_in_output": ("BOOL", np.bool_),
    "return_num_input_tokens": ("BOOL", np.bool_),
    "return_num_output_tokens": ("BOOL", np.bool_),
}


def ask(serving: Serving, prompt: str, **values: Any) -> list[dict[str, Any]]:
    """Return the responses' outputs."""
    inputs = []
    for name, value in {"text_input": prompt, **values}.items():
        datatype, dtype = TYPES[name]
        array = np.array([value if isinstance(value, list) else [value]], dtype=dtype)
        inputs.append(tritonclient.grpc.InferInput(name, list(array.shape), datatype))
        inputs[-1].set_data_from_numpy(array)
    answers: queue.Queue[Any] = queue.Queue()
    responses = []
    with tritonclient.grpc.InferenceServerClient(serving.server.grpc_url) as client:
        client.start_stream(lambda result, error: answers.put(error or result))
        client.async_stream_infer(f"{serving.model}_trtllm", inputs, enable_empty_final_response=True)
        while True:
            answer = answers.get(timeout=60)
            if isinstance(answer, InferenceServerException):
                raise answer
            response = answer.get_response()
            responses.append({output.name: answer.as_numpy(output.name) for output in response.outputs})
            if response.parameters["triton_final_response"].bool_param:
                return responses


def text(responses: list[dict[str, Any]]) -> str:
    return "".join(response["text_output"].item().decode() for response in responses if "text_output" in response)


FRONTEND = {
    "max_tokens": 32,
    "temperature": 0.0,
    "top_p": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "seed": 5,
    "exclude_input_in_output": True,
    "return_num_input_tokens": True,
    "return_num_output_tokens": True,
}
"""What the frontend sends with every completion."""


def test_one_response_or_many(llama: Serving) -> None:
    plain = llama.ask(PROMPTS[0], max_length=32)

    (whole,) = ask(llama, PROMPTS[0], stream=False, **FRONTEND)
    pieces = ask(llama, PROMPTS[0], stream=True, **FRONTEND)

    assert whole["text_output"].shape == (1, 1)
    assert text([whole]) == text(pieces) == plain.sentences[0]
    assert len(pieces) > 1
    for last in (whole, pieces[-1]):
        assert (last["num_input_tokens"].item(), last["num_output_tokens"].item()) == (
            plain.prompt_tokens[0],
            plain.completion_tokens[0],
        )
        assert last["num_output_tokens"].dtype == np.int32


def test_stop_words_and_the_prompt_before_the_answer(llama: Serving) -> None:
    values = FRONTEND | {"max_tokens": 600, "exclude_input_in_output": False, "stop_words": ["never", "ten, eleven"]}
    answer = text(ask(llama, "Count from one to fifty.", stream=True, **values))
    assert answer.startswith("Count from one to fifty.")
    assert answer.endswith("nine, ")


def test_a_request_that_says_nothing_of_sampling_is_greedy_and_a_seed_counts(llama: Serving) -> None:
    assert text(ask(llama, PROMPTS[0], max_tokens=32)) == llama.ask(PROMPTS[0], max_length=32).sentences[0]
    sampled = [text(ask(llama, "a", max_tokens=12, temperature=2.0, seed=seed)) for seed in (1, 2, 1)]
    assert sampled[0] == sampled[2] != sampled[1]


def test_a_penalty_that_there_is_not_is_refused(llama: Serving) -> None:
    with pytest.raises(InferenceServerException, match=r"beam_width is 2; this model can do 1 only"):
        ask(llama, "a", **FRONTEND | {"beam_width": 2})
