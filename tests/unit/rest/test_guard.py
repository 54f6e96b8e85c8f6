"""Who is let through: keys, rates, sizes, numbers."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from trition_repo_gen.errors import ServerError
from trition_repo_gen.rest.guard import ApiKeys, Guard, Rate


class Inner:
    """What stands behind the guard: it reads the body and answers 200; `hold` keeps it from answering."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.asked = asyncio.Event()
        self.hold = asyncio.Event()
        self.hold.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        self.asked.set()
        while (await receive()).get("more_body"):
            pass
        await self.hold.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


def guarded(
    inner: Inner, *, keys: ApiKeys | None = None, body: int = 1000, rate: int = 0, concurrent: int = 0
) -> Guard:
    return Guard(
        inner,
        open_paths=frozenset(["/v1/health"]),
        keys=keys,
        max_body_bytes=body,
        rate=Rate(rate),
        max_concurrent=concurrent,
    )


async def ask(
    guard: Guard, path: str = "/v1/completions", *, method: str = "POST", body: bytes = b"{}", **headers: str
) -> tuple[int, dict[str, Any]]:
    """Send a request whose body comes in two pieces; return the status and the document."""
    pieces: list[dict[str, Any]] = [
        {"type": "http.request", "body": body[:1], "more_body": True},
        {"type": "http.request", "body": body[1:]},
    ]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return pieces.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": path, "method": method, "client": ("192.0.2.1", 1)}
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await guard({**scope, "headers": fields}, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


@pytest.fixture
def keys(tmp_path: Path) -> ApiKeys:
    file = tmp_path / "keys"
    file.write_text("# for the team\nfirst\n\n second \n")
    return ApiKeys.read(file)


def test_a_trailing_slash_is_taken_off() -> None:
    inner = Inner()
    for path in ("/v1/models/", "/v1/models", "/"):
        asyncio.run(ask(guarded(inner), path))
    assert inner.paths == ["/v1/models", "/v1/models", "/"]


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer first", 200),
        ("bearer second", 200),
        ("Bearer third", 401),
        ("Bearer # for the team", 401),
        ("Bearer ", 401),
        ("Basic first", 401),
        ("first", 401),
    ],
)
def test_keys(keys: ApiKeys, authorization: str, status: int) -> None:
    assert asyncio.run(ask(guarded(Inner(), keys=keys), authorization=authorization))[0] == status


def test_without_a_key(keys: ApiKeys) -> None:
    status, document = asyncio.run(ask(guarded(Inner(), keys=keys)))
    assert (status, document["error"]["code"]) == (401, "invalid_api_key")
    assert asyncio.run(ask(guarded(Inner(), keys=keys), "/v1/health/", method="GET"))[0] == 200


@pytest.mark.parametrize("text", [None, "", "# nothing\n\n"])
def test_a_file_without_keys_is_refused(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "keys"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ServerError, match="--api-key-file"):
        ApiKeys.read(file)


def test_a_body_that_says_that_it_is_too_large_is_not_read() -> None:
    inner = Inner()
    status, document = asyncio.run(ask(guarded(inner, body=10), content_length="11"))
    assert (status, document["error"]["message"]) == (413, "The request has more than 10 bytes.")
    assert inner.paths == []


def test_a_body_that_does_not_say_so_is_cut_off() -> None:
    with pytest.raises(Exception, match="413"):  # the application behind makes a response of it
        asyncio.run(ask(guarded(Inner(), body=10), body=b"x" * 11))


def test_too_many_requests_in_a_minute() -> None:
    guard = guarded(Inner(), rate=2)

    async def three() -> list[int]:
        return [(await ask(guard))[0] for _ in range(3)]

    assert asyncio.run(three()) == [200, 200, 429]


def test_guesses_at_keys_are_counted(keys: ApiKeys) -> None:
    guard = guarded(Inner(), keys=keys, rate=1)

    async def all_of_them() -> list[int]:
        wanted = ["Bearer a", "Bearer b", "Bearer first", "Bearer second"]
        return [(await ask(guard, authorization=each))[0] for each in wanted]

    assert asyncio.run(all_of_them()) == [401, 429, 200, 200]


def test_a_bucket_fills_again() -> None:
    rate = Rate(60)
    for _ in range(60):
        assert rate.seconds_until_free("a", 100.0) == 0
    assert rate.seconds_until_free("a", 100.0) == pytest.approx(1)
    assert rate.seconds_until_free("b", 100.0) == 0
    assert rate.seconds_until_free("a", 101.0) == 0
    assert rate.seconds_until_free("a", 101.5) == pytest.approx(0.5)


def test_too_many_at_once() -> None:
    inner = Inner()
    guard = guarded(inner, concurrent=1)

    async def two() -> list[int]:
        inner.hold.clear()
        first = asyncio.create_task(ask(guard))
        await inner.asked.wait()
        second = await ask(guard)
        looking = asyncio.create_task(ask(guard, method="GET"))
        inner.hold.set()
        return [(await first)[0], second[0], (await looking)[0], (await ask(guard))[0]]

    assert asyncio.run(two()) == [200, 429, 200, 200]
