"""Documents and events, and log-probabilities in both shapes."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest

from trition_repo_gen.rest.answers import Finish, TextPiece
from trition_repo_gen.rest.errors import ApiError, from_triton
from trition_repo_gen.rest.formats import ChatFormat, CompletionFormat, Format
from trition_repo_gen.rest.logprobs import chat_logprobs, completion_logprobs


def ending(prompt: int = 3, completion: int = 2, **values: Any) -> Finish:
    return Finish("stop", prompt, completion, **values)


def events(form: Format, *pieces: TextPiece | ApiError, usage: bool = False) -> list[Any]:
    async def come() -> AsyncGenerator[TextPiece]:
        for piece in pieces:
            if isinstance(piece, ApiError):
                raise piece
            yield piece

    async def collect() -> bytes:
        return b"".join([event async for event in form.events(come(), include_usage=usage)])

    lines = [line.removeprefix("data: ") for line in asyncio.run(collect()).decode().split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def test_usage_counts_a_prompt_once_for_all_its_choices() -> None:
    pieces = [TextPiece(sequence, "x", ending(prompt=[3, 3, 5, 5][sequence])) for sequence in range(4)]
    document = json.loads(CompletionFormat("m", 2).document(pieces))
    assert document["usage"] == {"prompt_tokens": 8, "completion_tokens": 8, "total_tokens": 16}
    assert [choice["index"] for choice in document["choices"]] == [0, 1, 2, 3]


def test_a_chat_stream_begins_with_the_role_and_ends_with_the_usage() -> None:
    role, text, last, usage, done = events(
        ChatFormat("m", 1), TextPiece(0, 'a"\n'), TextPiece(0, "é", ending()), usage=True
    )
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert text["choices"] == [{"index": 0, "delta": {"content": 'a"\n'}, "logprobs": None, "finish_reason": None}]
    assert last["choices"] == [{"index": 0, "delta": {"content": "é"}, "logprobs": None, "finish_reason": "stop"}]
    assert [each["usage"] for each in (role, text, last)] == [None] * 3
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 5)
    assert done == "[DONE]"
    assert {each["object"] for each in (role, text, last, usage)} == {"chat.completion.chunk"}


def test_a_stream_without_usage_does_not_mention_it() -> None:
    *chunks, done = events(CompletionFormat("m", 1), TextPiece(0, "a"), TextPiece(0, "", ending()))
    assert all("usage" not in chunk for chunk in chunks)
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["a", ""]
    assert done == "[DONE]"


def test_what_goes_wrong_is_an_error_before_the_first_event_and_an_event_after_it() -> None:
    with pytest.raises(ApiError):
        events(ChatFormat("m", 1), ApiError(503, "gone"))
    *_, last = events(ChatFormat("m", 1), TextPiece(0, "a"), ApiError(503, "gone"))
    assert last["error"]["message"] == "gone"


def test_offsets_pass_over_what_does_not_stand_in_the_text() -> None:
    values = ending(
        log_probs=[-0.5] * 4, tokens=["ab", r"bytes:\xe7\x8c", r"bytes:\xab", "</s>"], top_logprobs=[{"ab": -0.5}] * 4
    )
    shape = completion_logprobs("ab猫", values)
    assert shape is not None
    assert shape["text_offset"] == [0, 2, 2, 3]
    assert shape["token_logprobs"] == [-0.5] * 4


def test_offsets_are_in_characters_of_a_text_with_the_special_tokens_that_it_has() -> None:
    tokens = ["<s>", "é", r"bytes:\xf0\x9f\x99", r"bytes:\x82", " b", r"bytes:\xe7", "</s>"]
    for text, offsets in (("é🙂 b�", [0, 0, 1, 1, 2, 4, 4]), ("<s>é🙂 b�", [0, 3, 4, 4, 5, 7, 7])):
        shape = completion_logprobs(text, ending(log_probs=[-0.5] * 7, tokens=tokens))
        assert shape is not None
        assert shape["text_offset"] == offsets


def test_an_echoed_prompts_first_token_has_no_log_probability() -> None:
    shape = completion_logprobs("Hi!", ending(log_probs=[-1.0, -2.0], tokens=["H", "i", "!"]))
    assert shape == {
        "tokens": ["H", "i", "!"],
        "token_logprobs": [None, -1.0, -2.0],
        "top_logprobs": None,
        "text_offset": [0, 1, 2],
    }


def test_an_impossible_token_is_json() -> None:
    values = ending(log_probs=[float("-inf")], tokens=["a"], top_logprobs=[{"a": float("-inf")}])
    shape = completion_logprobs("a", values)
    assert shape is not None
    assert (shape["token_logprobs"], shape["top_logprobs"]) == ([-9999.0], [{"a": -9999.0}])


def test_the_chats_shape() -> None:
    shape = chat_logprobs(ending(log_probs=[-0.25], tokens=["a"], top_logprobs=[{"a": -0.25, r"bytes:\xe7": -2.0}]))
    assert shape is not None
    (token,) = shape["content"]
    assert (token["token"], token["logprob"], token["bytes"]) == ("a", -0.25, [97])
    assert token["top_logprobs"][1] == {"token": r"bytes:\xe7", "logprob": -2.0, "bytes": [0xE7]}
    assert chat_logprobs(ending()) is None


@pytest.mark.parametrize(
    ("form", "sentence", "expected", "param"),
    [
        (CompletionFormat("m", 1), "max_length is 9, which is much.", "max_tokens is 9, which is much.", "max_tokens"),
        (ChatFormat("m", 1), "max_length is 9.", "max_tokens is 9.", "max_tokens"),
        (
            ChatFormat("m", 1, {"max_length": "max_completion_tokens"}),
            "min_length is 9; it has to be at most max_length.",
            "min_tokens is 9; it has to be at most max_completion_tokens.",
            "min_tokens",
        ),
        (CompletionFormat("m", 1), "The prompt has 9 tokens.", "The prompt has 9 tokens.", "prompt"),
        (ChatFormat("m", 1), "The prompt has 9 tokens.", "The prompt has 9 tokens.", "messages"),
        (CompletionFormat("m", 1), "n_top_logprobs is 9.", "logprobs is 9.", "logprobs"),
        (ChatFormat("m", 1), "n_top_logprobs is 9.", "top_logprobs is 9.", "top_logprobs"),
        (CompletionFormat("m", 1), "Something else is wrong.", "Something else is wrong.", None),
        (CompletionFormat("m", 1), "prompts has a text.", "prompt has a text.", "prompt"),
        (ChatFormat("m", 1), "images has 2 texts.", "messages has 2 texts.", "messages"),
        (ChatFormat("m", 1), "A message has images.", "A message has images.", "messages"),
    ],
)
def test_a_refusal_names_the_fields_of_the_body(form: Format, sentence: str, expected: str, param: str | None) -> None:
    error = form.explain(ApiError(400, sentence))
    assert (error.detail, error.param) == (expected, param)
    with pytest.raises(ApiError) as caught:
        events(form, ApiError(400, sentence))
    assert (caught.value.detail, caught.value.param) == (expected, param)
    assert form.explain(ApiError(503, sentence)).detail == sentence


def test_what_is_too_long_has_openais_code() -> None:
    error = from_triton(
        grpc.StatusCode.INVALID_ARGUMENT, "The prompt has 9 tokens; the maximum context length is 8 tokens."
    )
    assert error.code == "context_length_exceeded"
    assert CompletionFormat("m", 1).explain(error).code == "context_length_exceeded"
    assert from_triton(grpc.StatusCode.INVALID_ARGUMENT, "The prompt has 9 tokens.").code is None
