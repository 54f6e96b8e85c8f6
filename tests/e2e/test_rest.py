"""The REST service in front of real tritonserver, asked by OpenAI's own client."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import openai
import pytest

from tests.e2e.resting import rest_service
from tests.e2e.serving import PROMPTS, LogLine, Serve, Serving
from trition_repo_gen.clients import LLMClient

BANANA, CAPITAL = PROMPTS[:2]
LONG = "Count from one to fifty."
ASK_BANANA: Any = [{"role": "user", "content": BANANA}]


@pytest.fixture(scope="module")
def service(llama: Serving) -> Iterator[str]:
    with rest_service(llama.server.grpc_url) as url:
        yield url


@pytest.fixture(scope="module")
def client(service: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service}/v1", api_key="none", max_retries=0)


def fetch(url: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Return status and document."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urlopen(Request(url, data, {"Content-Type": "application/json"} | headers)) as response:
            return response.status, json.load(response)
    except HTTPError as error:
        return error.code, json.load(error)


def test_models(client: openai.OpenAI, service: str) -> None:
    (model,) = client.models.list().data  # and not its streaming model
    assert (model.id, model.object, model.owned_by) == ("llama", "model", "trgen")
    assert client.models.retrieve("llama") == model
    assert fetch(f"{service}/v1/models/") == fetch(f"{service}/v1/models")
    with pytest.raises(openai.NotFoundError, match="'gpt' does not exist"):
        client.models.retrieve("gpt")


def test_completions_are_those_of_plain_triton(client: openai.OpenAI, llama: Serving) -> None:
    answer = client.completions.create(model="llama", prompt=PROMPTS, max_tokens=24, temperature=0)
    plain = llama.ask(PROMPTS, max_length=24)
    assert [choice.text.encode() for choice in answer.choices] == [
        text.encode(errors="surrogateescape").decode(errors="replace").encode() for text in plain.sentences
    ]
    assert [choice.finish_reason for choice in answer.choices] == plain.finish_reason
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(plain.prompt_tokens)
    assert answer.usage.completion_tokens == sum(plain.completion_tokens)


def test_a_chat(client: openai.OpenAI, llama: Serving) -> None:
    answer = client.chat.completions.create(model="llama", messages=ASK_BANANA, temperature=0)
    plain = llama.ask(json.dumps(ASK_BANANA), apply_chat_template=True)
    assert answer.choices[0].message.content == plain.sentences[0] == " Yellow."
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage is not None
    assert answer.usage.total_tokens == plain.prompt_tokens[0] + plain.completion_tokens[0]


def test_a_stream_joins_to_the_plain_answer(client: openai.OpenAI) -> None:
    wanted: dict[str, Any] = {"model": "llama", "prompt": LONG, "max_tokens": 600, "temperature": 0}
    plain = client.completions.create(**wanted)
    chunks = list(client.completions.create(**wanted, stream=True, stream_options={"include_usage": True}))
    assert len(chunks) > 10
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == plain.choices[0].text
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage == plain.usage
    assert chunks[-1].choices == []


def test_a_chats_stream_with_several_choices(client: openai.OpenAI) -> None:
    wanted: dict[str, Any] = {"model": "llama", "messages": ASK_BANANA, "n": 3, "seed": 5, "temperature": 2}
    wanted |= {"max_tokens": 20, "stop": ["."]}
    plain = client.chat.completions.create(**wanted)
    texts = {0: "", 1: "", 2: ""}
    reasons = {}
    for chunk in client.chat.completions.create(**wanted, stream=True):
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    assert texts == {choice.index: choice.message.content for choice in plain.choices}
    assert reasons == {choice.index: choice.finish_reason for choice in plain.choices}


def test_seeds_and_stop_words(client: openai.OpenAI) -> None:
    def ask(seed: int) -> str:
        answer = client.completions.create(model="llama", prompt="a", seed=seed, temperature=2, max_tokens=12)
        return answer.choices[0].text

    assert ask(1) == ask(1)
    assert len({ask(seed) for seed in range(6)}) > 1
    stopped = client.completions.create(
        model="llama", prompt=LONG, max_tokens=600, temperature=0, stop=["ten, eleven", "never"]
    )
    assert stopped.choices[0].text.endswith("nine, ")
    assert stopped.choices[0].finish_reason == "stop"


def test_log_probabilities(client: openai.OpenAI, llama: Serving) -> None:
    plain = llama.ask(BANANA, max_length=16, compute_logprob=True, n_top_logprobs=2)
    wanted: dict[str, Any] = {"model": "llama", "prompt": BANANA, "max_tokens": 16, "temperature": 0, "logprobs": 2}
    (choice,) = client.completions.create(**wanted).choices
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == [*" Yellow.", "</s>"]
    assert choice.logprobs.text_offset == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert choice.logprobs.token_logprobs == pytest.approx(plain.log_probs[0], abs=1e-4)
    assert choice.logprobs.top_logprobs is not None
    assert [list(token) for token in choice.logprobs.top_logprobs] == [list(token) for token in plain.top_logprobs[0]]
    *_, last = client.completions.create(**wanted, stream=True)
    assert last.choices[0].logprobs == choice.logprobs

    chat = client.chat.completions.create(
        model="llama",
        messages=ASK_BANANA,
        temperature=0,
        logprobs=True,
        top_logprobs=1,
    ).choices[0]
    assert chat.logprobs is not None
    assert chat.logprobs.content is not None
    assert "".join(token.token for token in chat.logprobs.content) == " Yellow.</s>"
    assert all(token.top_logprobs[0].token == token.token for token in chat.logprobs.content)


def test_the_log_probabilities_of_an_echoed_prompt(client: openai.OpenAI) -> None:
    (choice,) = client.completions.create(
        model="llama", prompt="Hello", max_tokens=1, temperature=0, logprobs=1, echo=True
    ).choices
    assert choice.text.startswith("Hello")
    assert choice.logprobs is not None
    assert choice.logprobs.tokens is not None
    assert choice.logprobs.tokens[:5] == [*"Hello"]
    assert choice.logprobs.token_logprobs is not None
    assert choice.logprobs.token_logprobs[:1] == [None]
    assert all(value < 0 for value in choice.logprobs.token_logprobs[1:])
    assert len(choice.logprobs.token_logprobs) == 6


def test_mistakes(client: openai.OpenAI, service: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt", prompt="a")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="at most 1024 tokens"):
        client.completions.create(model="llama", prompt="a", max_tokens=5000)
    with pytest.raises(openai.BadRequestError, match="at most 1024 tokens"):  # not a broken stream
        client.completions.create(model="llama", prompt="a", max_tokens=5000, stream=True)
    with pytest.raises(openai.BadRequestError, match="suffix is not supported") as refused:
        client.completions.create(model="llama", prompt="a", suffix="b")
    assert refused.value.param == "suffix"
    with pytest.raises(openai.BadRequestError, match="takes no images"):
        parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
        client.chat.completions.create(model="llama", messages=[{"role": "user", "content": parts}])  # type: ignore
    assert fetch(f"{service}/v1/completions", b"{")[0] == 400
    assert fetch(f"{service}/v2") == (
        404,
        {
            "error": {
                "message": "There is nothing at /v2.",
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            }
        },
    )
    assert fetch(f"{service}/v1/completions")[0] == 405


def test_the_older_services_paths(service: str) -> None:
    body = {"model": "llama", "prompt": BANANA, "max_tokens": 20, "temperature": 0.0, "top_k": 1, "top_p": 0.0}
    assert fetch(f"{service}/v1/completions/", body)[1]["choices"][0]["text"] == " Yellow."
    chat = {"model": "llama", "messages": ASK_BANANA, "max_tokens": 20, "temperature": 0.0}
    assert fetch(f"{service}/v1/chat/completions/", chat)[1]["choices"][0]["message"]["content"] == " Yellow."
    assert fetch(f"{service}/v1/health/") == (200, {"status": "ok"})
    assert fetch(f"{service}/v1/triton_health") == (200, {"status": "ok", "triton": "ok", "llama": "ok"})


def test_health_without_triton() -> None:
    with rest_service("127.0.0.1:1") as url:
        for path in ("/v1/health", "/v1/triton_health"):
            status, document = fetch(url + path)
            assert (status, document["status"]) == (503, "unavailable")
        status, document = fetch(f"{url}/v1/models")
        assert (status, document["error"]["message"]) == (503, "Triton does not answer; try again later.")


def test_keys_size_and_rate(llama: Serving, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("let-me-in\n")
    flags = ("--api-key-file", tmp_path / "keys", "--max-body-mib", "1", "--max-requests-per-minute", "6")
    with rest_service(llama.server.grpc_url, *flags) as url:

        def client(key: str) -> openai.OpenAI:
            return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)

        with pytest.raises(openai.AuthenticationError, match="missing or wrong"):
            client("wrong").models.list()
        assert client("let-me-in").models.list().data[0].id == "llama"
        assert fetch(f"{url}/v1/health")[0] == 200
        with pytest.raises(openai.APIStatusError, match="more than 1048576 bytes") as caught:
            client("let-me-in").completions.create(model="llama", prompt="a" * 2**20)
        assert caught.value.status_code == 413
        assert chunked(url, "let-me-in", 2**20 + 1).startswith(b"HTTP/1.1 413 ")
        with pytest.raises(openai.RateLimitError, match="too many requests in the last minute"):
            for _ in range(6):
                client("let-me-in").models.list()


def chunked(url: str, key: str, size: int) -> bytes:
    """Send a body that does not say how long it is; return the response."""
    host, _, port = url.removeprefix("http://").partition(":")
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
    head += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{head}{size:x}\r\n".encode() + b" " * size + b"\r\n0\r\n\r\n")
        return connection.recv(1000)


@pytest.fixture(scope="module")
def narrow(serve: Serve) -> Iterator[tuple[Serving, str]]:
    """One sequence at a time, one request may wait; and the service in front of it."""
    with (
        serve("llama", "--max-requests", "1", "--max-queue-size", "1", "--debug-mode") as serving,
        rest_service(serving.server.grpc_url) as url,
    ):
        yield serving, url


def test_a_full_server_is_a_503_and_still_healthy(narrow: tuple[Serving, str]) -> None:
    _, url = narrow
    body = {"model": "llama", "prompt": LONG, "max_tokens": 900, "min_tokens": 900, "temperature": 0}
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: fetch(f"{url}/v1/completions", body), range(3)))
        assert fetch(f"{url}/v1/health")[0] == 200
    assert sorted(status for status, _ in answers) == [200, 200, 503]
    (refusal,) = (document for status, document in answers if status == 503)
    assert refusal["error"]["message"] == "The server is full and 1 requests wait already; try again later."


@pytest.mark.parametrize("stream", [False, True])
def test_a_closed_connection_frees_the_place(narrow: tuple[Serving, str], stream: bool) -> None:
    serving, url = narrow
    host, _, port = url.removeprefix("http://").partition(":")
    wanted = {"model": "llama", "prompt": LONG, "max_tokens": 900, "min_tokens": 900, "stream": stream}
    body = json.dumps(wanted).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    cancelled = LogLine(serving, "The client has cancelled the request")
    started = LogLine(serving, "request with 1 sequences")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        if stream:
            assert connection.recv(1000)
        else:
            started.wait()
    if not stream:
        cancelled.wait()
    # There is one place, and the first request would hold it for many seconds more than this one may take.
    with LLMClient(serving.http, "llama", timeout=600) as client:
        (answer,) = client.infer([BANANA], max_length=8)
    assert answer.text == " Yellow."
