import json
from typing import Any

import numpy as np
import pytest

from trition_repo_gen.runtime.common.protocol import Answer, Done, PromptLimit, SequenceRequest
from trition_repo_gen.runtime.common.wire import BadRequestError
from trition_repo_gen.runtime.stub.requests import read_sequences
from trition_repo_gen.runtime.stub.trtllm import last_response, native_inputs, wants_stream

TEXT = {"text_input": np.array([[b"Hi"]], dtype=np.object_)}
ALL = {"text_output", "num_input_tokens", "num_output_tokens", "output_log_probs", "cum_log_probs"}


def one(value: Any, dtype: Any) -> Any:
    return np.array([[value]], dtype=dtype)


def sequence(**tensors: Any) -> SequenceRequest:
    (read,) = read_sequences(native_inputs(TEXT | tensors), PromptLimit(100, 20))
    return read


def test_what_the_openai_frontend_sends() -> None:
    tensors = {
        "stream": one(True, np.bool_),
        "max_tokens": one(16, np.int32),
        "stop_words": np.array([[b"END", b"\n"]], dtype=np.object_),
        "top_p": one(0.5, np.float32),
        "frequency_penalty": one(0, np.float32),
        "presence_penalty": one(0, np.float32),
        "seed": one(7, np.uint64),
        "temperature": one(0.5, np.float32),
        "exclude_input_in_output": one(False, np.bool_),
        "return_num_input_tokens": one(True, np.bool_),
    }
    read = sequence(**tensors)
    assert (read.prompt, read.max_length, read.stop_words) == ("Hi", 16, ["END", "\n"])
    assert (read.top_k, read.top_p, read.temperature, read.seed, read.echo) == (0, 0.5, 0.5, 7, True)
    assert wants_stream(tensors)
    assert not wants_stream(TEXT)


@pytest.mark.parametrize(
    ("tensors", "greedy"),
    [
        ({}, True),
        ({"temperature": one(1.0, np.float32)}, False),
        ({"temperature": one(0.0, np.float32)}, True),
        ({"top_p": one(1.0, np.float32)}, False),
        ({"top_p": one(0.0, np.float32)}, True),
        ({"top_k": one(1, np.int32), "temperature": one(1.0, np.float32)}, True),
        ({"top_k": one(4, np.int32)}, False),
    ],
)
def test_a_request_samples_where_it_says_something_of_sampling(tensors: dict[str, Any], greedy: bool) -> None:
    assert sequence(**tensors).greedy == greedy


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("beam_width", one(2, np.int32)),
        ("beam_width", one(0, np.int32)),
    ],
)
def test_what_there_is_not_is_refused(name: str, tensor: Any) -> None:
    with pytest.raises(BadRequestError, match=f"{name} is .*; this model can do"):
        sequence(**{name: tensor})


@pytest.mark.parametrize(("streamed", "text"), [(True, " end"), (False, "The end")])
def test_the_last_response(streamed: bool, text: str) -> None:
    answer = Answer(text="The end", finish_reason="stop", prompt_tokens=3, completion_tokens=2, log_probs=[-0.5, -0.25])
    done = Done(1, answer, rest=" end")

    outputs = dict(last_response(SequenceRequest(prompt="a", log_probs=True), done, ALL, streamed=streamed))

    assert outputs["text_output"].tolist() == [[text.encode()]]
    assert [outputs[name].item() for name in ("num_input_tokens", "num_output_tokens", "cum_log_probs")] == [
        3,
        2,
        -0.75,
    ]
    assert outputs["num_output_tokens"].dtype == np.int32
    assert outputs["output_log_probs"].tolist() == [[-0.5, -0.25]]
    assert [
        name for name, _ in last_response(SequenceRequest(prompt="a"), done, {"text_output"}, streamed=streamed)
    ] == ["text_output"]


def test_stop_words_are_json_for_the_reader() -> None:
    words = native_inputs(TEXT | {"stop_words": np.array([[b"", "ü".encode()]], dtype=np.object_)})["stop_words"]
    assert json.loads(words[0, 0]) == ["ü"]
