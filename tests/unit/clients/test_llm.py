"""What is refused before anything is sent."""

from typing import Any

import pytest

from trition_repo_gen.clients import LLMClient, NemoQueryLLMPyTorch
from trition_repo_gen.errors import QueryError

NOWHERE = "127.0.0.1:1"


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"topk": 3}, "There is no parameter 'topk'; there are max_length"),
        ({"max_length": [1, 2, 3]}, "max_length has 3 values for 2 prompts"),
        ({"max_length": 2.5}, "max_length is 2.5; it has to be a whole number"),
        ({"max_length": True}, "max_length is True; it has to be a whole number"),
        ({"random_seed": 2**63}, "random_seed is 9223372036854775808; it has to be a whole number of 64 bits"),
        ({"temperature": "hot"}, "temperature is 'hot'; it has to be a number"),
        ({"top_p": [0.5, None]}, "top_p is None; it has to be a number"),
        ({"echo": 1}, "echo is 1; it has to be True or False"),
        ({"stop_words": "END"}, "stop_words is 'END'; give a list of texts"),
        ({"stop_words": [["a"], "b"]}, "give a list of texts, or one such list per prompt"),
        ({"stop_words": [["a"]]}, r"one such list per prompt \(2\)"),
        ({"stop_words": [["a"], [1]]}, "give a list of texts, or one such list per prompt"),
    ],
)
def test_unfit_parameters(parameters: dict[str, Any], sentence: str) -> None:
    with LLMClient(NOWHERE, "llama") as client, pytest.raises(QueryError, match=sentence):
        client.infer(["a", "b"], **parameters)


def test_no_prompt() -> None:
    with LLMClient(NOWHERE, "llama") as client, pytest.raises(QueryError, match="There is no prompt"):
        client.infer([])


@pytest.mark.parametrize("name", ["add_BOS", "all_probs", "min_length"])
def test_the_query_class_refuses_what_the_server_cannot_do(name: str) -> None:
    arguments: dict[str, Any] = {name: 3 if name == "min_length" else True}
    with pytest.raises(QueryError, match=f"^{name} is .*, which this server cannot do; leave it out"):
        NemoQueryLLMPyTorch(NOWHERE, "llama").query_llm(["a"], **arguments)
