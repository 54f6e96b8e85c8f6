"""Fetching images from a real HTTP server on this machine."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from trition_repo_gen.runtime.common.image_urls import ImageUrlError
from trition_repo_gen.runtime.common.settings import Settings
from trition_repo_gen.runtime.rank.engines.images import fetch as module
from trition_repo_gen.runtime.rank.engines.images.fetch import Fetcher

IMAGE = b"\x89PNG" + bytes(3000)


class WebServer:
    """A server, and the paths that it was asked for."""

    def __init__(self) -> None:
        server = self
        self.asked: list[str] = []
        self.stop = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                server.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]

    def url(self, path: str, name: str = "127.0.0.1") -> str:
        return f"http://{name}:{self.port}/{path}"

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        path, _, rest = to.path[1:].partition("?")
        if path == "moved":
            to.send_response(302)
            to.send_header("Location", rest)
            to.end_headers()
            return
        if path == "missing":
            to.send_error(404)
            return
        to.send_response(200)
        if path in ("image.png", "short"):
            to.send_header("Content-Length", str(len(IMAGE) + (path == "short")))
        if path == "compressed":
            to.send_header("Content-Encoding", "gzip")
        to.end_headers()
        if path == "slow":  # one byte now and then, for as long as the test lasts
            while not self.stop.wait(0.05):
                to.wfile.write(b"x")
            return
        to.wfile.write(IMAGE)


@pytest.fixture
def server() -> Iterator[WebServer]:
    server = WebServer()
    thread = threading.Thread(target=server.server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.stop.set()
    server.server.shutdown()
    thread.join()
    server.server.server_close()


def fetcher(allowed: str = "127.0.0.1", *, mib: float = 1.0, seconds: float = 30.0) -> Fetcher:
    return Fetcher(Settings(checkpoint="/c", multimodal=True, allow_image_urls=allowed, max_image_mib=mib), seconds)


@pytest.mark.parametrize("path", ["image.png", "of-unknown-length", "moved?/image.png", "moved?/moved?image.png"])
def test_an_image(server: WebServer, path: str) -> None:
    assert fetcher()(server.url(path)) == IMAGE


def test_path_and_query_are_sent_as_they_are(server: WebServer) -> None:
    fetcher()(server.url("a%20b/c.png?w=1&h=2#part"))
    assert server.asked == ["/a%20b/c.png?w=1&h=2"]


def test_proxies_of_the_environment_are_not_asked(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert fetcher()(server.url("image.png")) == IMAGE


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("missing", "its host answered 404"),
        ("compressed", "it came compressed"),
        ("short", "the connection (broke|failed)"),
        ("moved?", "it redirects to nowhere"),
        ("moved?/moved?/moved?/moved?/image.png", "it redirects more than 3 times"),
        ("moved?file:///etc/passwd", "neither http nor https"),
        ("moved?http://169.254.169.254/latest/meta-data", r"fetches no images from 169\.254\.169\.254"),
        ("moved?http://elsewhere.example.org/x", "fetches no images from elsewhere.example.org"),
    ],
)
def test_what_does_not_come(server: WebServer, path: str, sentence: str) -> None:
    with pytest.raises(ImageUrlError, match=sentence):
        fetcher()(server.url(path))


@pytest.mark.parametrize("path", ["image.png", "of-unknown-length"])
def test_an_image_that_is_too_large(server: WebServer, path: str) -> None:
    with pytest.raises(ImageUrlError, match="more than the 2048 bytes"):
        fetcher(mib=2 / 1024)(server.url(path))


def test_a_host_that_sends_a_byte_now_and_then(server: WebServer) -> None:
    with pytest.raises(ImageUrlError, match=r"it took longer than 0\.3 s"):
        fetcher(seconds=0.3)(server.url("slow"))


def test_an_inner_host_has_to_be_named(server: WebServer) -> None:
    assert fetcher("localhost")(server.url("image.png", "localhost")) == IMAGE
    server.asked.clear()
    for allowed in ("*", "local*", f"loc?lhost:{server.port}"):
        with pytest.raises(ImageUrlError, match="inside a network that is not public"):
            fetcher(allowed)(server.url("image.png", "localhost"))
    assert server.asked == []


def test_nobody_is_there() -> None:
    with pytest.raises(ImageUrlError, match="the connection failed"):
        fetcher()("http://127.0.0.1:1/x")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert module._is_public(address) is public
