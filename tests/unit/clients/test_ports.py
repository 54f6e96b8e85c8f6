"""What listens at a port where Triton was expected. The ports of a real tritonserver: tests/e2e/test_query_wire.py."""

import contextlib
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.unit.clients.triton_server import echo_server
from trition_repo_gen.cli import app
from trition_repo_gen.clients import LLMClient, NemoQueryLLMPyTorch, NemoQueryMultimodalPytorch, ServerFailedError
from trition_repo_gen.clients.address import parse_url
from trition_repo_gen.clients.ports import listener, wrong_port
from trition_repo_gen.errors import QueryError
from trition_repo_gen.server import free_ports

SECONDS = 5.0
TRITON = {"/v2": json.dumps({"name": "triton", "version": "2.51.0", "extensions": ["classification"]})}
REST = {"/v1/models": json.dumps({"object": "list", "data": []})}
METRICS = {"/metrics": "# HELP nv_inference_request_success Number\nnv_inference_request_success{} 0\n"}
LOCKED = {
    "/v1/models": json.dumps({"error": {"message": "The API key is missing or wrong", "code": "invalid_api_key"}})
}
PAGE = {"/": "<html>"}
"""Paths and what is there."""


@contextlib.contextmanager
def web(paths: dict[str, str], context: ssl.SSLContext | None = None, missing: int = 404) -> Iterator[int]:
    """Serve these texts, and a status for everything else; gives the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in paths else missing)
            self.end_headers()
            self.wfile.write(paths.get(self.path, "").encode())

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def certificate(tmp_path: Path) -> ssl.SSLContext:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate")
    files = [str(tmp_path / name) for name in ("key.pem", "certificate.pem")]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", files[0], "-out", files[1]], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files[1], files[0])
    return context


@pytest.mark.parametrize(
    ("paths", "what"),
    [(TRITON, "triton"), (REST, "rest"), (LOCKED, "rest"), (METRICS, "metrics"), (PAGE, "http"), ({}, "http")],
)
def test_who_speaks_http(paths: dict[str, str], what: str) -> None:
    with web(paths) as port:
        assert listener("127.0.0.1", port, SECONDS) == what


def test_who_speaks_something_else(certificate: ssl.SSLContext) -> None:
    with web(TRITON, certificate) as port:
        assert listener("127.0.0.1", port, SECONDS) == "tls"
    with echo_server() as server:
        host, _, number = server.url.partition(":")
        assert listener(host, int(number), SECONDS) == "grpc"


def test_who_says_nothing_or_is_not_there() -> None:
    assert listener("127.0.0.1", free_ports(1)[0], SECONDS) is None
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert listener("127.0.0.1", silent.getsockname()[1], 0.1) is None


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_gateway_in_front_of_a_triton_that_starts_is_waited_for(status: int) -> None:
    with web({}, missing=status) as port:
        assert listener("127.0.0.1", port, SECONDS) is None
        with (
            LLMClient(f"127.0.0.1:{port}", "llama") as client,
            pytest.raises(ServerFailedError, match=r"^Waited 0\.2 s for "),
        ):
            client.wait_ready(0.2)


@pytest.mark.parametrize(
    ("paths", "scheme", "sentence"),
    [
        (TRITON, "http", None),
        (TRITON, "grpc", "is Triton's HTTP endpoint; write http://127.0.0.1:PORT, or name the gRPC port."),
        (TRITON, "https", "speaks no TLS; write http://127.0.0.1:PORT."),
        (TRITON, "grpcs", "speaks no TLS; write http://127.0.0.1:PORT."),
        (
            REST,
            "http",
            "is an OpenAI-compatible REST service, which answers /v1/chat/completions, not Triton. Triton's",
        ),
        (REST, "grpc", "is an OpenAI-compatible REST service"),
        (METRICS, "http", "are Triton's metrics. Triton's own ports are 8000 for HTTP and 8001 for gRPC"),
        (PAGE, "grpc", "is a web server, but not Triton"),
    ],
)
def test_what_to_write_instead(paths: dict[str, str], scheme: str, sentence: str | None) -> None:
    with web(paths) as port:
        told = wrong_port(parse_url(f"{scheme}://127.0.0.1:{port}"), SECONDS)
    if sentence is None:
        assert told is None
    else:
        assert told is not None
        assert told.startswith(f"What listens at 127.0.0.1:{port} {sentence.replace('PORT', str(port))}")


@pytest.mark.parametrize(("scheme", "wrong"), [("http", True), ("grpc", False), ("https", True), ("grpcs", True)])
def test_grpc_at_the_port(scheme: str, wrong: bool) -> None:
    with echo_server() as server:
        told = wrong_port(parse_url(f"{scheme}://{server.url}"), SECONDS)
        assert (told is not None) == wrong
        assert told is None or f"write grpc://{server.url}" in told


def test_tls_at_the_port(certificate: ssl.SSLContext) -> None:
    with web(TRITON, certificate) as port:
        assert wrong_port(parse_url(f"https://127.0.0.1:{port}"), SECONDS) is None
        told = wrong_port(parse_url(f"http://127.0.0.1:{port}"), SECONDS)
        assert told == f"What listens at 127.0.0.1:{port} speaks TLS; write https://127.0.0.1:{port}."


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_every_client_says_so_at_once(scheme: str) -> None:
    def ask_llm(url: str) -> Any:
        with LLMClient(url, "llama") as client:
            client.wait_ready(3600)

    def ask_nemo(url: str) -> Any:
        return NemoQueryLLMPyTorch(url, "llama").query_llm(["a"], init_timeout=3600)

    def ask_multimodal(url: str) -> Any:
        return NemoQueryMultimodalPytorch(url, "qwen").query_multimodal(["a"], [None], init_timeout=3600)

    with web(REST) as port:
        for ask in (ask_llm, ask_nemo, ask_multimodal):
            with pytest.raises(QueryError, match="is an OpenAI-compatible REST service") as caught:
                ask(f"{scheme}://127.0.0.1:{port}")
            assert not isinstance(caught.value, ServerFailedError)


@pytest.mark.parametrize("flags", [[], ["--grpc"], ["--stream"], ["--json"]])
def test_the_command_says_so_at_once(flags: list[str]) -> None:
    with web(REST) as port:
        result = CliRunner().invoke(app, ["query", "-u", f"127.0.0.1:{port}", "-mn", "llama", "-p", "a", *flags])
    assert isinstance(result.exception, QueryError)
    assert "is an OpenAI-compatible REST service" in str(result.exception)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_an_answer_of_another_server_is_a_sentence(scheme: str) -> None:
    with web({}) as port, LLMClient(f"{scheme}://127.0.0.1:{port}", "llama", timeout=20) as client:
        with pytest.raises(QueryError):
            client.infer(["a"])
        with pytest.raises(QueryError):
            list(client.stream("a"))
