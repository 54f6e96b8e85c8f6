"""What other languages' HTTP clients send: offers of other protocols, compressed bodies, many idle connections."""

import gzip
import json
import resource
import shutil
import socket
import subprocess
import threading
import zlib
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tests.unit.clients.triton_server import echo_server
from tests.unit.rest.service import running_service

Address = tuple[str, int]
BODY = json.dumps({"model": "echo", "prompt": "hé" * 40}).encode()
TEXT = "hé" * 40
# What the HttpClient of Java 11 to 25 sends to an http:// URL, for langchain4j and Spring AI.
JAVA = (
    b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
    b"Upgrade: h2c\r\nUser-Agent: Java-http-client/17.0.15\r\n"
)
WAIT = 20.0


@pytest.fixture(scope="module")
def service() -> Iterator[Address]:
    with echo_server() as triton, running_service(triton.url) as address:
        yield address


def head(method: str, path: str, *lines: bytes, length: int | None = len(BODY)) -> bytes:
    fields = [b"Host: a", b"Content-Type: application/json", *lines]
    if length is not None:
        fields.append(b"Content-Length: %d" % length)
    return f"{method} {path} HTTP/1.1\r\n".encode() + b"".join(line.strip() + b"\r\n" for line in fields) + b"\r\n"


def read(connection: socket.socket) -> tuple[int, Any]:
    """Return the next response's status and document."""
    response = HTTPResponse(connection)
    response.begin()
    text = response.read()
    return response.status, json.loads(text) if text else None


def text_of(answer: tuple[int, Any]) -> str:
    status, document = answer
    assert status == 200, document
    text: str = document["choices"][0]["text"]
    return text


def ask(address: Address, method: str, path: str, body: bytes | None = None, **headers: str) -> Any:
    connection = HTTPConnection(*address, timeout=WAIT)
    try:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"Content-Type": "application/json"} | fields)
        response = connection.getresponse()
        return response.status, response.read(), dict(response.getheaders())
    finally:
        connection.close()


@pytest.mark.parametrize("split", ["at once", "body apart", "byte by byte"])
@pytest.mark.parametrize("chunked", [False, True])
def test_an_offer_of_http2_is_declined_and_the_body_read(service: Address, split: str, chunked: bool) -> None:
    first = head("POST", "/v1/completions", JAVA, *([b"Transfer-Encoding: chunked"] if chunked else []))
    body = BODY
    if chunked:
        first = first.replace(b"Content-Length: %d\r\n" % len(BODY), b"")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    whole = first + body
    pieces = {"at once": [whole], "body apart": [first, body], "byte by byte": [bytes([each]) for each in whole]}
    with socket.create_connection(service, WAIT) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):  # the connection stays usable
            for piece in pieces[split]:
                connection.sendall(piece)
            assert text_of(read(connection)) == TEXT


@pytest.mark.parametrize("offer", [JAVA, b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket"], ids=["h2c", "ws"])
def test_requests_that_follow_each_other_without_waiting(service: Address, offer: bytes) -> None:
    post = head("POST", "/v1/completions", offer) + BODY
    get = head("GET", "/v1/models", offer, length=None)
    with socket.create_connection(service, WAIT) as connection:
        connection.sendall(get + post + post + get)
        answers = []
        for _ in range(4):
            # One after the other: `HTTPResponse` reads ahead.
            response = b""
            while b"\r\n\r\n" not in response:
                response += connection.recv(1)
            length = next(int(line[15:]) for line in response.split(b"\r\n") if line.startswith(b"content-length:"))
            answers.append(connection.recv(length, socket.MSG_WAITALL))
        assert [json.loads(answer)["object"] for answer in answers] == [
            "list",
            "text_completion",
            "text_completion",
            "list",
        ]


def test_an_offer_beside_a_wish_to_close(service: Address) -> None:
    offer = b"Connection: close, Upgrade\r\nUpgrade: h2c"
    with socket.create_connection(service, WAIT) as connection:
        connection.sendall(head("POST", "/v1/completions", offer) + BODY)
        assert text_of(read(connection)) == TEXT
        assert connection.recv(1) == b""


@pytest.mark.parametrize("request_line", ["CONNECT a:80 HTTP/1.1", "CONNECT / HTTP/1.1", "nonsense"])
def test_what_is_no_request_of_ours_is_answered(service: Address, request_line: str) -> None:
    with socket.create_connection(service, WAIT) as connection:
        connection.sendall(f"{request_line}\r\nHost: a:80\r\n\r\n".encode())
        assert connection.recv(12) in (b"HTTP/1.1 400", b"HTTP/1.1 404", b"HTTP/1.1 405")


def test_a_client_that_goes_is_noticed_after_an_offer(service: Address) -> None:
    with socket.create_connection(service, WAIT) as connection:
        connection.sendall(head("POST", "/v1/completions", JAVA))  # and no body
    assert ask(service, "GET", "/v1/models")[0] == 200


def test_uvicorn_itself_still_drops_the_body() -> None:
    async def echo(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": message.get("body", b"")})

    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(echo, http=HttpToolsProtocol, ws="none", lifespan="off", log_level="critical")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        with socket.create_connection(listener.getsockname(), WAIT) as connection:
            connection.sendall(head("POST", "/", JAVA))
            connection.sendall(BODY)
            answer = b"".join(iter(lambda: connection.recv(1000), b""))
        server.should_exit = True
        thread.join()
    assert BODY not in answer, "rest/upstream.py is no longer needed"


def test_head_is_get_without_the_body(service: Address) -> None:
    for path in ("/", "/v1/models", "/v1/models/echo", "/v1/models/none", "/v1/health", "/v1/triton_health"):
        got, asked = ask(service, "GET", path), ask(service, "HEAD", path)
        assert (asked[0], asked[1]) == (got[0], b"")
        assert asked[2]["content-length"] == got[2]["content-length"]
    assert ask(service, "HEAD", "/v1/completions")[0] == 405


@pytest.mark.parametrize(
    ("path", "methods"),
    [("/v1/models", "GET, HEAD, OPTIONS"), ("/", "GET, HEAD, OPTIONS"), ("/v1/completions", "POST, OPTIONS")],
)
def test_options_and_what_is_not_allowed_name_the_methods(service: Address, path: str, methods: str) -> None:
    status, body, headers = ask(service, "OPTIONS", path)
    assert (status, body, headers["allow"]) == (204, b"", methods)
    status, body, headers = ask(service, "DELETE", path)
    assert (status, headers["allow"]) == (405, methods)
    assert json.loads(body)["error"]["message"] == "DELETE is not allowed here."


def test_options_of_nothing_and_of_everything(service: Address) -> None:
    assert ask(service, "OPTIONS", "/nothing")[0] == 404
    assert ask(service, "OPTIONS", "*")[0] == 204


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(BODY)),
        ("x-gzip", gzip.compress(BODY)),
        ("GZIP", gzip.compress(BODY, 1)),
        ("gzip", gzip.compress(BODY[:9]) + gzip.compress(BODY[9:])),
        ("deflate", zlib.compress(BODY)),
        ("deflate", raw_deflate(BODY)),
        ("identity", BODY),
        ("", BODY),
        ("identity, gzip", gzip.compress(BODY)),
    ],
    ids=["gzip", "x-gzip", "GZIP", "two gzips", "deflate", "raw deflate", "identity", "empty", "identity and gzip"],
)
def test_compressed_bodies(service: Address, encoding: str, body: bytes) -> None:
    status, answer, _ = ask(service, "POST", "/v1/completions", body, Content_Encoding=encoding)
    assert text_of((status, json.loads(answer))) == TEXT
    first = head("POST", "/v1/completions", b"Content-Encoding: " + encoding.encode(), length=len(body))
    with socket.create_connection(service, WAIT) as connection:
        for byte in first + body:
            connection.send(bytes([byte]))
        assert text_of(read(connection)) == TEXT


@pytest.mark.parametrize(
    ("encoding", "body", "status", "says"),
    [
        ("br", BODY, 415, "has the Content-Encoding 'br'; send it as gzip, as deflate, or as it is."),
        ("gzip, gzip", gzip.compress(gzip.compress(BODY)), 415, "'gzip, gzip'; send it as gzip"),
        ("gzip", BODY, 400, "is not valid gzip, as its Content-Encoding says"),
        ("deflate", BODY, 400, "is not valid deflate"),
        ("gzip", gzip.compress(BODY)[:-9], 400, "is not valid gzip"),
        ("gzip", gzip.compress(BODY) + b"rest", 400, "is not valid gzip"),
        ("deflate", zlib.compress(BODY) + b"rest", 400, "is not valid deflate"),
        ("gzip", gzip.compress(b" " * 2**20 + BODY), 413, "more than 1048576 bytes"),
        ("gzip", gzip.compress(bytes(2**27)), 413, "more than 1048576 bytes"),
    ],
    ids=["br", "twice", "no gzip", "no deflate", "cut off", "gzip and more", "deflate and more", "large", "bomb"],
)
def test_compressed_bodies_that_are_refused(
    service: Address, encoding: str, body: bytes, status: int, says: str
) -> None:
    got, answer, headers = ask(service, "POST", "/v1/completions", body, Content_Encoding=encoding)
    assert (got, says in json.loads(answer)["error"]["message"]) == (status, True), answer
    assert ("accept-encoding" in headers) == (status == 415)


def test_more_idle_connections_than_files_may_be_open() -> None:
    files = 200

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    with echo_server() as triton, running_service(triton.url, before=limit) as address:
        idle = []
        for number in range(files + 50):
            connection = socket.create_connection(address, WAIT)
            idle.append(connection)
            if number % 2:  # kept alive after a request, or never used
                connection.sendall(head("GET", "/v1/models", length=None))
                assert read(connection)[0] == 200
        status, answer, _ = ask(address, "POST", "/v1/completions", BODY)
        assert text_of((status, json.loads(answer))) == TEXT
        for connection in idle:
            connection.close()


def test_a_soft_limit_of_open_files_is_raised() -> None:
    files = 200

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    with echo_server() as triton, running_service(triton.url, before=limit) as address:
        idle = [socket.create_connection(address, WAIT) for _ in range(files + 50)]
        for connection in idle:
            connection.sendall(head("GET", "/v1/models", length=None))
        assert [read(connection)[0] for connection in idle] == [200] * len(idle)
        for connection in idle:
            connection.close()


JAVA_CLIENT = """
import java.net.URI;
import java.net.http.*;

public class Ask {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0]))
            .header("Content-Type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString(arguments[1])).build();
        for (int i = 0; i < 2; i++)
            System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).body());
    }
}
"""
NODE_CLIENT = """
const [url, body] = process.argv.slice(1);
const headers = { "Content-Type": "application/json" };
const ask = async () => console.log(await (await fetch(url, { method: "POST", body, headers })).text());
ask().then(ask);
"""


@pytest.mark.parametrize("program", ["java", "node", "curl", "curl --http2", "curl gzip", "wget"])
def test_real_clients(service: Address, program: str, tmp_path: Path) -> None:
    name = program.split()[0]
    if shutil.which(name) is None:
        pytest.skip(f"there is no {name}")
    url = f"http://{service[0]}:{service[1]}/v1/completions"
    json_type = "Content-Type: application/json"
    (tmp_path / "Ask.java").write_text(JAVA_CLIENT)
    (tmp_path / "body.gz").write_bytes(gzip.compress(BODY))
    commands: dict[str, list[str | bytes]] = {
        "java": ["java", str(tmp_path / "Ask.java"), url, BODY.decode()],
        "node": ["node", "-e", NODE_CLIENT, url, BODY.decode()],
        "curl": ["curl", "-s", "-H", json_type, "-d", BODY, url],
        "curl --http2": ["curl", "-s", "--http2", "-H", json_type, "-d", BODY, url],
        "curl gzip": [
            *("curl", "-s", "-H", json_type, "-H", "Content-Encoding: gzip"),
            *("--data-binary", f"@{tmp_path / 'body.gz'}", url),
        ],
        "wget": ["wget", "-qO-", f"--header={json_type}", b"--post-data=" + BODY, url],
    }
    answer = subprocess.run(commands[program], capture_output=True, check=True, timeout=120)
    lines = answer.stdout.decode().splitlines()
    assert [text_of((200, json.loads(line))) for line in lines] == [TEXT] * (2 if name in ("java", "node") else 1)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "grpc_proxy", "https_proxy", "all_proxy"])
def test_no_proxy_stands_between_the_service_and_triton(variable: str) -> None:
    with echo_server() as triton, running_service(triton.url, environment={variable: "http://127.0.0.1:1"}) as address:
        status, answer, _ = ask(address, "POST", "/v1/completions", BODY)
        assert text_of((status, json.loads(answer))) == TEXT
