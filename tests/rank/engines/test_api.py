"""Sequences that could never run are refused."""

import pytest

from trition_repo_gen.runtime.common.protocol import SequenceRequest
from trition_repo_gen.runtime.rank.engines.api import why_impossible

LIMIT = "this model's maximum context length is 50 tokens"


@pytest.mark.parametrize(
    ("tokens", "max_length", "sentence"),
    [
        ([1, 2, 99], 5, None),
        ([1] * 30, 50, None),  # cut to what is left
        ([1] * 50, 0, None),
        ([1, 100], 5, "The prompt has the token 100, which this model does not know; it knows 100."),
        ([1] * 50, 5, f"The prompt has 50 tokens, but {LIMIT} with the answer; shorten it."),
        ([1] * 51, 0, f"The prompt has 51 tokens, but {LIMIT} with the answer; shorten it."),
        ([1], 51, f"max_length is 51, but {LIMIT}: prompt and answer have at most 50 tokens."),
    ],
    ids=["fits", "is cut", "no answer", "unknown token", "long prompt", "long prompt without answer", "long answer"],
)
def test_what_could_never_run_is_refused_with_the_number_that_is_too_large(
    tokens: list[int], max_length: int, sentence: str | None
) -> None:
    request = SequenceRequest(prompt="", max_length=max_length)
    assert why_impossible(tokens, request, max_sequence_length=50, vocab_size=100, room=60) == sentence


def test_what_the_kv_cache_never_has_room_for_is_refused() -> None:
    request = SequenceRequest(prompt="", max_length=11)
    assert why_impossible([1] * 30, request, max_sequence_length=50, vocab_size=100, room=40) == (
        "Prompt and answer need room for 41 tokens; the KV cache has 40: the maximum context length is 40 tokens."
    )
