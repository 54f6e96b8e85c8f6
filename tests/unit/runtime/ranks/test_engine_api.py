from collections.abc import Callable
from typing import Any


def test_what_could_never_run_is_refused_with_the_number_that_is_too_large(in_megatron: Callable[..., Any]) -> None:
    sentences = in_megatron(__file__, "drivers.py", "refusals")
    assert sentences.pop("fits") is None
    assert sentences == {
        "unknown token": "The prompt has the token 100, which this model does not know; it knows 100.",
        "long prompt": "The prompt has 50 tokens, but this model takes 50 with the answer; shorten it.",
        "long answer": "max_length is 51; this model's sequences have at most 50 tokens.",
        "no room": "Prompt and answer need room for 41 tokens; the KV cache has 40.",
    }
