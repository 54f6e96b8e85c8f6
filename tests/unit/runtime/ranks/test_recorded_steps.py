from collections.abc import Callable
from typing import Any


def test_steps_of_few_rows_and_of_many_tokens_have_cuda_graphs(in_megatron: Callable[..., Any]) -> None:
    tokens = in_megatron(__file__, "drivers.py", "recorded_steps")

    assert tokens["long"] == [[2048, 1536, 1024], [1024], [1536, 1024], [2048], [1536]]
    assert tokens["before"] == {
        "one sequence decodes": 2,
        "three sequences decode": 4,
        "a few prompts": 512,
        "prompts beside many sequences": None,
        "one long prompt": None,
        "more than is recorded": None,
    }
    added = {"one sequence decodes": 1, "prompts beside many sequences": 1024, "one long prompt": 2048}
    assert tokens["after"] == tokens["before"] | added
    nothing = {"a few prompts": None, "prompts beside many sequences": None, "one long prompt": None}
    assert tokens["decoding alone"] == tokens["after"] | nothing
