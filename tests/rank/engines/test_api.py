"""Sequences that could never run are refused."""

import pytest

from trition_repo_gen.runtime.common.protocol import SequenceRequest
from trition_repo_gen.runtime.rank.engines.api import why_impossible


@pytest.mark.parametrize(
    ("tokens", "max_length", "sentence"),
    [
        ([1, 2, 99], 5, None),
        ([1, 100], 5, "The prompt has the token 100, which this model does not know; it knows 100."),
        ([1] * 50, 5, "The prompt has 50 tokens, but this model takes 50 with the answer; shorten it."),
        ([1], 51, "max_length is 51; this model's sequences have at most 50 tokens."),
        ([1] * 30, 11, "Prompt and answer need room for 41 tokens; the KV cache has 40."),
    ],
    ids=["fits", "unknown token", "long prompt", "long answer", "no room"],
)
def test_what_could_never_run_is_refused_with_the_number_that_is_too_large(
    tokens: list[int], max_length: int, sentence: str | None
) -> None:
    request = SequenceRequest(prompt="", max_length=max_length)
    assert why_impossible(tokens, request, max_sequence_length=50, vocab_size=100, room=40) == sentence
