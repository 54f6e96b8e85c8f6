import json

import numpy as np

from trition_repo_gen.runtime.common.protocol import Answer, SequenceRequest
from trition_repo_gen.runtime.stub.responses import output_tensors

ALL = {
    "sentences",
    "log_probs",
    "log_probs_lengths",
    "top_logprobs",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
}


def answer(text: str, *log_probs: float) -> Answer:
    return Answer(
        text=text,
        finish_reason="stop",
        prompt_tokens=2,
        completion_tokens=len(log_probs),
        log_probs=list(log_probs),
    )


def test_rows_of_unequal_length_are_padded_and_say_their_lengths() -> None:
    sequences = [SequenceRequest(prompt="a", log_probs=True)] * 2

    tensors = dict(output_tensors(sequences, [answer("x", -1.0, -2.0), answer("y", -3.0)], ALL))

    np.testing.assert_array_equal(tensors["log_probs"], np.array([[-1, -2], [-3, 0]], dtype=np.float32))
    assert tensors["log_probs"].dtype == np.float32
    assert tensors["log_probs_lengths"].tolist() == [[2], [1]]


def test_log_probabilities_are_left_out_where_no_row_asked() -> None:
    tensors = dict(output_tensors([SequenceRequest(prompt="a")], [answer("ü")], ALL))

    assert sorted(tensors) == ["completion_tokens", "finish_reason", "prompt_tokens", "sentences"]
    assert tensors["sentences"].tolist() == [["ü".encode()]]


def test_only_what_the_client_wants_is_sent() -> None:
    assert [
        name for name, _ in output_tensors([SequenceRequest(prompt="a")], [answer("x")], {"sentences", "log_probs"})
    ] == ["sentences"]


def test_top_log_probabilities_are_json() -> None:
    sequences = [SequenceRequest(prompt="a", top_logprobs=1)]
    got = Answer(text="x", finish_reason="length", prompt_tokens=1, completion_tokens=1, top_logprobs=[{"ü": -0.25}])

    tensors = dict(output_tensors(sequences, [got], ALL))

    assert json.loads(tensors["top_logprobs"][0, 0]) == [{"ü": -0.25}]
