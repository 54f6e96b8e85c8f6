"""What is ready, and how it is shown."""

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from trition_repo_gen.server.command import Endpoint
from trition_repo_gen.server.process import reason
from trition_repo_gen.server.watch import LogView, first_unready, stage


class Triton(ThreadingHTTPServer):
    """Answers 200 for the paths in `ready`, 400 for others."""

    ready: frozenset[str] = frozenset()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert isinstance(self.server, Triton)
        self.send_response(200 if self.path in self.server.ready else 400)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def triton() -> Iterator[Triton]:
    with Triton(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_everything_has_to_answer(triton: Triton) -> None:
    endpoint = Endpoint("127.0.0.1", triton.server_address[1], "--triton-port")
    models = ("a", "b c")
    assert first_unready(endpoint, models) == "model a"
    triton.ready = frozenset({"/v2/models/a/ready"})
    assert first_unready(endpoint, models) == "model b c"
    triton.ready |= {"/v2/models/b%20c/ready"}
    assert first_unready(endpoint, models) == "tritonserver"
    triton.ready |= {"/v2/health/ready"}
    assert first_unready(endpoint, models) is None
    assert first_unready(endpoint, ()) is None


def test_nobody_listens(triton: Triton) -> None:
    endpoint = Endpoint("127.0.0.1", triton.server_address[1], "--triton-port")
    triton.server_close()
    assert first_unready(endpoint, ("a",)) == "model a"
    assert first_unready(endpoint, ()) == "tritonserver"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[trgen llama] rank 0: loading weights 40 %", "llama: rank 0: loading weights 40 %"),
        ('I1122 13:15:36.476733 5398 server.cc:631] "[trgen llama] x"', None),
        ("[trgen llama]", None),
        ("", None),
    ],
)
def test_the_stage_of_loading(line: str, expected: str | None) -> None:
    assert stage(line) == expected


def test_lines_are_plain_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    view = LogView(stream)
    with view.progress("loading llama"):
        view.show("[trgen llama] rank 0: loading [bold]weights[/bold]")
    view.show("after")
    assert stream.getvalue() == "[trgen llama] rank 0: loading [bold]weights[/bold]\nafter\n"


def test_nobody_reads_the_log() -> None:
    stream = io.StringIO()
    stream.close()
    LogView(stream).show("a line")


def test_the_reason_is_what_was_logged_as_an_error() -> None:
    useless = 'E1122 13:15:36.477110 5398 server.cc:241] "CudaDriverHelper has not been initialized."'
    errors = [
        "[trgen llama] rank 1: out of memory",
        'E1122 1 2 x.cc:1] "failed to load"',
        "error: creating server",
        "Signal (11) received.",
    ]
    lines = ["I1122 13:15 ok", useless, errors[0], "+-----+", *errors[1:], "Everything is fine"]
    assert reason(lines) == errors


def test_without_errors_the_reason_is_the_end_of_the_log() -> None:
    assert reason([str(number) for number in range(50)]) == [str(number) for number in range(40, 50)]
    assert reason([]) == []
