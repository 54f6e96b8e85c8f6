"""The way to Triton: a server that starts late, is far away, or is not there."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc
import pytest
from starlette.testclient import TestClient

from tests.unit.clients.triton_server import echo_server
from trition_repo_gen.rest import triton as module
from trition_repo_gen.rest.app import create_app
from trition_repo_gen.rest.catalog import Catalog
from trition_repo_gen.rest.errors import ApiError
from trition_repo_gen.rest.options import RestOptions
from trition_repo_gen.rest.triton import Outputs, Triton
from trition_repo_gen.server import free_ports

ASKED = {"prompts": "a"}
AWAY = 0.2
"""Seconds of a way to the server and back."""


@contextlib.asynccontextmanager
async def connection(url: str) -> AsyncIterator[Triton]:
    triton = Triton(url)
    try:
        yield triton
    finally:
        await triton.close()


@contextlib.asynccontextmanager
async def far_away(url: str) -> AsyncIterator[str]:
    """Give the address of a relay that passes everything on half of AWAY later."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await reader.read(2**16):
                loop.call_later(AWAY / 2, writer.write, data)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*url.split(":"))
        async with asyncio.TaskGroup() as both:
            both.create_task(pump(reader, far_writer))
            both.create_task(pump(far_reader, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def all_of(pieces: AsyncGenerator[Outputs]) -> list[Outputs]:
    return [piece async for piece in pieces]


def call(triton: Triton, how: str) -> Any:
    """Return what awaits an answer of a kind."""
    if how == "infer":
        return triton.infer("echo", ASKED, ("sentences",))
    if how == "stream":
        return all_of(triton.stream("echo_stream", ASKED, ("sentences",)))
    if how == "models":
        return Catalog(triton).models()
    return triton.is_ready(5.0)


KINDS = ("infer", "stream", "models", "ready")


@pytest.mark.parametrize("how", KINDS)
def test_the_first_request_to_a_server_far_away(how: str) -> None:
    async def ask(url: str) -> Any:
        async with far_away(url) as address, connection(address) as triton:
            return await call(triton, how)

    with echo_server() as server:
        assert asyncio.run(ask(server.url))


@pytest.mark.parametrize("how", ["infer", "stream", "models"])
def test_a_server_that_starts_after_the_request_was_sent(how: str) -> None:
    async def ask() -> Any:
        (port,) = free_ports(1)
        async with connection(f"127.0.0.1:{port}") as triton:
            asked = asyncio.ensure_future(call(triton, how))
            channel = triton._channel
            while (state := channel.get_state()) is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                await channel.wait_for_state_change(state)
            with echo_server(port):
                return await asked

    assert asyncio.run(ask())


@pytest.mark.parametrize("listens", [False, True])
@pytest.mark.parametrize("how", KINDS)
def test_no_server(monkeypatch: pytest.MonkeyPatch, how: str, listens: bool) -> None:
    monkeypatch.setattr(module, "_CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(module, "_PROBE_SECONDS", 0.5)

    async def ask(port: int) -> list[Any]:
        # One after the other, they would take 20 times as long as the patience.
        async with connection(f"127.0.0.1:{port}") as triton, asyncio.timeout(8):
            return await asyncio.gather(*(call(triton, how) for _ in range(20)), return_exceptions=True)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        if not listens:
            silent.close()
        answers = asyncio.run(ask(silent.getsockname()[1] if listens else free_ports(1)[0]))
    assert {(type(each), each.status_code, each.detail) for each in answers} == {
        (ApiError, 503, "Triton does not answer; try again later.")
    }


def test_a_server_that_is_not_there_is_a_503_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CONNECT_SECONDS", 0.5)
    with TestClient(create_app(RestOptions(triton=f"127.0.0.1:{free_ports(1)[0]}"))) as client:
        for answer in (
            client.post("/v1/completions", json={"model": "echo", "prompt": "a"}),
            client.get("/v1/models"),
        ):
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
            assert answer.json()["error"]["message"] == "Triton does not answer; try again later."
        assert client.get("/v1/health").json()["reasons"] == {"triton": "Triton does not answer; try again later."}
