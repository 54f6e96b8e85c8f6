"""An environment with a proxy: this machine is asked without it."""

import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tests.unit.clients.triton_server import echo_server
from trition_repo_gen.clients import LLMClient, NemoQueryLLMPyTorch
from trition_repo_gen.clients.images import encode
from trition_repo_gen.clients.proxies import grpc_options, is_direct
from trition_repo_gen.errors import QueryError

VARIABLES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")


class Web(BaseHTTPRequestHandler):
    """A web server, or a proxy: it remembers what it was asked for."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"\x89PNG\r\n\x1a\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Handler", (Web,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()


@pytest.fixture(params=VARIABLES)
def proxy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A proxy that does not answer, in one of the variables that there are."""
    for other in (*VARIABLES, "no_proxy"):
        monkeypatch.delenv(other, raising=False)
        monkeypatch.delenv(other.upper(), raising=False)
    name: str = request.param
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    return name


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_grpc_to_this_machine(proxy: str, host: str) -> None:
    with echo_server() as server:
        url = f"grpc://{host}:{server.url.rpartition(':')[2]}"
        with LLMClient(url, "echo", timeout=20) as client:
            client.wait_ready(20)
            assert client.infer(["a"])[0].text == "a"
            assert [piece for piece in client.stream("b") if isinstance(piece, str)] == ["b"]
        answer = NemoQueryLLMPyTorch(url, "echo").query_llm(["c"], init_timeout=20)
        assert answer["choices"][0]["text"] == [["c"]]


def test_an_image_of_this_machine(proxy: str, web: tuple[str, list[str]]) -> None:
    address, asked = web
    assert encode(f"http://{address}/a.png").startswith("data:image;base64,")
    assert asked == ["/a.png"]


@pytest.mark.parametrize(
    ("host", "direct"),
    [
        ("127.0.0.1", True),
        ("127.3.2.1", True),
        ("::1", True),
        ("localhost", True),
        (socket.gethostname(), True),
        ("192.0.2.1", False),
        ("2001:db8::1", False),
        ("nowhere.invalid", False),
        ("a..b", False),
    ],
)
def test_who_is_this_machine(proxy: str, host: str, direct: bool) -> None:
    if host == socket.gethostname():
        try:
            socket.getaddrinfo(host, None)
        except OSError:
            pytest.skip("this machine does not know its own name")
    assert is_direct(host) == direct
    assert (("grpc.enable_http_proxy", 0) in grpc_options(host)) == direct


@pytest.mark.parametrize("no_proxy", ["192.0.2.1", "a.example,192.0.2.1", "*"])
def test_whom_no_proxy_names(proxy: str, monkeypatch: pytest.MonkeyPatch, no_proxy: str) -> None:
    monkeypatch.setenv("no_proxy", no_proxy)
    assert is_direct("192.0.2.1")


def test_other_machines_are_asked_through_the_proxy(
    monkeypatch: pytest.MonkeyPatch, web: tuple[str, list[str]]
) -> None:
    address, asked = web
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://{address}")
    encode("http://192.0.2.1/b.png")
    assert asked == ["http://192.0.2.1/b.png"]


def test_without_a_proxy_no_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert not is_direct("localhost")
    with echo_server() as server, LLMClient(f"grpc://{server.url}", "echo", timeout=20) as client:
        assert client.infer(["a"])[0].text == "a"
    with pytest.raises(QueryError):
        encode("http://127.0.0.1:1/a.png")
