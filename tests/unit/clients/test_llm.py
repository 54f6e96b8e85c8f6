"""What is refused before anything is sent, and what is sent."""

import math
import re
import struct
from typing import Any

import pytest

from tests.unit.clients.triton_server import echo_server
from trition_repo_gen.clients import LLMClient, NemoQueryLLMPyTorch
from trition_repo_gen.clients.llm import Prompt
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


@pytest.mark.parametrize("prompt", ["a\udcff", [{"role": "user", "content": "a\udcff"}]])
def test_a_prompt_that_is_not_unicode(prompt: Prompt) -> None:
    with LLMClient(NOWHERE, "llama") as client:
        with pytest.raises(QueryError, match=r"^The prompt has '\\udcff', which is not valid Unicode"):
            client.infer([prompt])
        with pytest.raises(QueryError, match=r"^The prompt has '\\udcff', which is not valid Unicode"):
            next(client.stream(prompt))


def test_a_name_that_is_not_unicode() -> None:
    with pytest.raises(QueryError, match=r"^The model's name has '\\udcff', which is not valid Unicode"):
        LLMClient(NOWHERE, "\udcff")


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0, 1e10])
def test_a_time_that_cannot_be_waited_for(seconds: float) -> None:
    sentence = f"^The time to wait is {re.escape(str(seconds))} s; it has to be between 0 and 1000000000 s"
    with pytest.raises(QueryError, match=sentence):
        LLMClient(NOWHERE, "llama", timeout=seconds)
    with (
        echo_server() as server,
        LLMClient(f"grpc://{server.url}", "echo") as client,
        pytest.raises(QueryError, match=sentence),
    ):
        client.wait_ready(seconds)


@pytest.mark.parametrize("name", ["add_BOS", "all_probs"])
def test_the_query_class_refuses_what_the_server_cannot_do(name: str) -> None:
    arguments: dict[str, Any] = {name: True}
    with pytest.raises(QueryError, match=f"^{name} is .*, which this server cannot do; leave it out"):
        NemoQueryLLMPyTorch(NOWHERE, "llama").query_llm(["a"], **arguments)


def test_the_query_class_sends_the_least_number_of_tokens() -> None:
    with echo_server() as server:
        answer = NemoQueryLLMPyTorch(f"grpc://{server.url}", "echo").query_llm(["a"], min_length=3)
    assert answer["choices"][0]["text"] == [["a"]]
    (request,) = server.requests
    sent = dict(zip([tensor.name for tensor in request.inputs], request.raw_input_contents, strict=True))
    assert sent["min_length"] == struct.pack("<q", 3)
