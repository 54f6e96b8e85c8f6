import json
from typing import Any

import numpy as np
import pytest

from trition_repo_gen.runtime.common.protocol import PromptLimit
from trition_repo_gen.runtime.common.wire import BadRequestError
from trition_repo_gen.runtime.stub.requests import read_sequences

LIMIT = PromptLimit(max_bytes=100, max_tokens=20)

BYTES, INT64, FP32, BOOL = np.object_, np.int64, np.float32, np.bool_


def column(dtype: Any, *values: Any) -> Any:
    return np.array([[value] for value in values], dtype=dtype)


def test_defaults_are_the_contract() -> None:
    (sequence,) = read_sequences({"prompts": column(BYTES, b"Hi")}, LIMIT)

    assert (sequence.prompt, sequence.max_length, sequence.top_k, sequence.top_p, sequence.temperature) == (
        "Hi",
        256,
        1,
        0.0,
        1.0,
    )
    assert (sequence.repetition_penalty, sequence.log_probs, sequence.top_logprobs, sequence.echo, sequence.chat) == (
        1.0,
        False,
        0,
        False,
        False,
    )


def test_every_row_has_its_own_values() -> None:
    sequences = read_sequences(
        {
            "prompts": column(BYTES, b"a", "ü".encode()),
            "max_length": column(INT64, 3, 5),
            "top_k": column(INT64, 0, 4),
            "temperature": column(FP32, 0.5, 2),
            "random_seed": column(INT64, 0, 9),
            "use_greedy": column(BOOL, True, False),
            "stop_words": column(BYTES, b"[]", json.dumps(["\n"]).encode()),
        },
        LIMIT,
    )

    assert [(r.prompt, r.max_length, r.top_k, r.temperature, r.seed) for r in sequences] == [
        ("a", 3, 1, 0.5, 0),
        ("ü", 5, 4, 2.0, 9),
    ]
    assert [r.stop_words for r in sequences] == [[], ["\n"]]


def test_rows_without_a_seed_differ() -> None:
    first, second = read_sequences({"prompts": column(BYTES, b"a", b"a")}, LIMIT)

    assert first.seed != second.seed


@pytest.mark.parametrize(
    ("name", "tensor", "sentence"),
    [
        ("prompts", column(BYTES, b""), "prompts has an empty text"),
        ("prompts", column(BYTES, b"\xff\xfe"), "not UTF-8 \\(byte 0\\)"),
        (
            "prompts",
            column(BYTES, b"x" * 101),
            "The prompt has 101 bytes, .* maximum context length is 20 tokens .* at most 100 bytes",
        ),
        ("max_length", column(INT64, 0), "max_length is 0; it has to be 1 or more, or echo and compute_logprob"),
        ("min_length", column(INT64, 257), "min_length is 257; it has to be at most max_length, which is 256"),
        ("max_length", column(INT64, -5), "max_length is -5"),
        ("max_length", column(INT64, 2**40), "max_length is 1099511627776"),
        ("top_k", column(INT64, -1), "top_k is -1; it has to be 0 or more"),
        ("top_p", column(FP32, 1.5), "top_p is 1.5; it has to be between 0 and 1"),
        ("top_p", column(FP32, float("nan")), "top_p is nan"),
        ("temperature", column(FP32, float("nan")), "temperature is nan; it has to be 0 or more"),
        ("temperature", column(FP32, float("inf")), "temperature is inf"),
        ("repetition_penalty", column(FP32, 0), "repetition_penalty is 0.0; it has to be above 0"),
        ("n_top_logprobs", column(INT64, -1), "n_top_logprobs is -1"),
        ("stop_words", column(BYTES, b'"END"'), "stop_words has to be a JSON list"),
        ("stop_words", column(BYTES, b'{"END": 1}'), "stop_words has to be a JSON list"),
        ("stop_words", column(BYTES, b'["END"'), "stop_words has to be a JSON list"),
        ("stop_words", column(BYTES, b"\xff"), "stop_words has to be a JSON list"),
        ("stop_words", column(BYTES, b""), "none of them empty"),
        ("n_top_logprobs", column(INT64, 257), "n_top_logprobs is 257; it has to be 0 or more, and at most 256"),
        ("stop_words", column(BYTES, b'[""]'), "none of them empty"),
        ("stop_words", column(BYTES, b'["\\ud800"]'), "stop_words has to be a JSON list"),
        ("stop_words", column(BYTES, b"[" * 100_000), "stop_words has to be a JSON list"),
        ("stop_words", column(BYTES, json.dumps(["a"] * 65).encode()), "has 65 texts, .* at most 64 of at most 256"),
        ("stop_words", column(BYTES, json.dumps(["a" * 257]).encode()), "the longest of 257 characters"),
        ("stop_words", np.array([[b"a"] * 65], dtype=BYTES), "has 65 texts, .* at most 64 of at most 256"),
        ("stop_words", np.array([[b"a", b"\xff"]], dtype=BYTES), "stop_words has to be a JSON list"),
        ("stop_words", np.array([b"a"], dtype=BYTES), "stop_words has the shape \\[1\\]; it has to be \\[1, 1\\]"),
        ("top_k", np.array([[1, 2]], dtype=INT64), "top_k has the shape \\[1, 2\\]; it has to be \\[1, 1\\]"),
    ],
)
def test_nonsense_is_refused_by_name(name: str, tensor: Any, sentence: str) -> None:
    with pytest.raises(BadRequestError, match=sentence):
        read_sequences({"prompts": column(BYTES, b"Hi"), name: tensor}, LIMIT)


def test_a_request_without_prompts_is_the_clients_mistake() -> None:
    with pytest.raises(BadRequestError, match="prompts is missing"):
        read_sequences({"max_length": column(INT64, 1)}, LIMIT)


def test_no_new_tokens_are_for_the_log_probabilities_of_the_prompt() -> None:
    wanted = {"prompts": column(BYTES, b"a"), "max_length": column(INT64, 0), "echo": column(BOOL, True)}
    for name, value in (("compute_logprob", column(BOOL, True)), ("n_top_logprobs", column(INT64, 3))):
        (sequence,) = read_sequences(wanted | {name: value}, LIMIT)
        assert sequence.max_length == 0
    with pytest.raises(BadRequestError, match="max_length is 0"):
        read_sequences(wanted, LIMIT)


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ([b"END"], ["END"]),  # of "END" and of ["END"] alike
        ([b"\n"], ["\n"]),
        ([b"3"], ["3"]),
        ([b"a", b"\n", "ü".encode()], ["a", "\n", "ü"]),
        ([b"[", b'"'], ["[", '"']),
        ([b'["a", "b"]'], ["a", "b"]),
        ([], []),
    ],
)
def test_a_list_in_generates_body_is_an_element_each(elements: list[bytes], expected: list[str]) -> None:
    words = np.array([elements], dtype=BYTES).reshape(1, len(elements))
    (sequence,) = read_sequences({"prompts": column(BYTES, b"Hi"), "stop_words": words}, LIMIT)
    assert sequence.stop_words == expected


def test_shorter_lists_are_filled_up_with_empty_texts() -> None:
    words = np.array([[b"a", b"b"], [b"c", b""], [b"", b""]], dtype=BYTES)
    sequences = read_sequences({"prompts": column(BYTES, b"1", b"2", b"3"), "stop_words": words}, LIMIT)
    assert [sequence.stop_words for sequence in sequences] == [["a", "b"], ["c"], []]
