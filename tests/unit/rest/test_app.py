"""The whole service as an ASGI application: what it answers to what no client should send."""

import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.unit.clients.triton_server import EchoModel, echo_server
from trition_repo_gen.rest.app import create_app
from trition_repo_gen.rest.options import RestOptions

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HALF = r"\ud83d"
"""What JavaScript's JSON makes of half an emoji."""
SAYS = "The text has '\\ud83d', which is half a character; send valid Unicode."


@pytest.fixture(scope="module")
def triton() -> Iterator[EchoModel]:
    with echo_server() as model:
        yield model


@pytest.fixture(scope="module")
def service(triton: EchoModel) -> Iterator[TestClient]:
    with TestClient(create_app(RestOptions(triton=triton.url))) as client:
        yield client


def post(service: TestClient, path: str, body: str) -> Any:
    """Send JSON as it is spelt."""
    return service.post(path, content=body, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (TEXT, f'"prompt": "a {HALF}"'),
        (TEXT, f'"prompt": ["a", "{HALF}"]'),
        (CHAT, f'"messages": [{{"role": "user", "content": "a {HALF}"}}]'),
        (CHAT, f'"messages": [{{"role": "user", "content": [{{"type": "text", "text": "{HALF}"}}]}}]'),
        (CHAT, f'"messages": [{{"role": "user", "content": "a", "name": "{HALF}"}}]'),
        (CHAT, f'"messages": [{{"role": "user", "content": "a", "x": {{"{HALF}": 1}}}}]'),
    ],
)
@pytest.mark.parametrize("stream", ["false", "true"])
def test_half_a_character_is_a_mistake(service: TestClient, path: str, fields: str, stream: str) -> None:
    answer = post(service, path, f'{{"model": "echo", "stream": {stream}, {fields}}}')
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, SAYS)


def test_both_halves_are_a_character(service: TestClient) -> None:
    answer = post(service, TEXT, rf'{{"model": "echo", "prompt": "{HALF}\ude00"}}')
    assert (answer.status_code, answer.json()["choices"][0]["text"]) == (200, "😀")


def test_half_a_character_in_a_name(service: TestClient) -> None:
    answer = post(service, TEXT, f'{{"model": "echo", "prompt": "a", "{HALF}": 1}}')
    message = rf"Unrecognized request argument supplied: {HALF}."
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, message)


def many(element: str) -> str:
    return ",".join([element] * 5000)


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (TEXT, f'"prompt": [{many("null")}]', "prompt.0"),
        (TEXT, f'"prompt": [[{many("null")}]]', "prompt.0.0"),
        (TEXT, ", ".join(f'"{number:x}": 0' for number in range(5000)), "0"),
        (TEXT, f'"prompt": 0, "user": {"[" * 255}{many("[]")}{"]" * 255}', "prompt"),
        (CHAT, f'"messages": [{many("0")}]', "messages.0"),
        (CHAT, f'"messages": [{{"role": "user", "content": [{many("0")}]}}]', "messages.0.content.0"),
    ],
    ids=["prompts", "tokens", "names", "what is ignored", "messages", "parts"],
)
def test_many_mistakes_take_no_more_memory_than_one(service: TestClient, path: str, fields: str, param: str) -> None:
    body = f'{{"model": "echo", {fields}}}'
    tracemalloc.start()
    try:
        answer = post(service, path, body)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    # Reading "[]," takes 27 bytes a byte; an error for each element of these bodies, more than a hundred.
    assert most < 50 * len(body)
