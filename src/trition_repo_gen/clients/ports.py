"""Finds out what listens at a port where the expected server does not answer."""

import contextlib
import http.client
import json
import socket
import ssl
from typing import Literal

from .address import ServerAddress

Listener = Literal["triton", "grpc", "rest", "metrics", "http", "tls"]

# The client's connection preface and an empty SETTINGS frame. A server's first frame is SETTINGS, too (RFC 9113, 3.4).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_SETTINGS = 4
_FRAME_HEAD = 9
_MOST_BYTES = 2**20
_TRITONS_PORTS = "Triton's own ports are 8000 for HTTP and 8001 for gRPC, unless it was started with others"


def wrong_port(address: ServerAddress, seconds: float) -> str | None:
    """Return advice if something other than the expected server listens at an address.

    Args:
        address: the address of a Triton server, as the user wrote it.
        seconds: the timeout of each of a few probes.

    Returns:
        a sentence; None if nothing listens, Triton does, or the listener cannot be identified.
    """
    found = listener(address.host, address.port, seconds)
    where, secure = address.netloc, "s" if address.encrypted else ""
    if found is None or (found == ("grpc" if address.grpc else "triton") and not address.encrypted):
        return None
    if found == "tls":
        if address.encrypted:
            return None
        return f"What listens at {where} speaks TLS; write {address.protocol}s://{where}."
    if found in ("triton", "grpc") and address.encrypted:
        return f"What listens at {where} speaks no TLS; write {'grpc' if found == 'grpc' else 'http'}://{where}."
    if found == "grpc":
        return f"What listens at {where} speaks gRPC; write grpc{secure}://{where} (--grpc), or name the HTTP port."
    if found == "triton":
        return (
            f"What listens at {where} is Triton's HTTP endpoint; write http{secure}://{where}, or name the gRPC port."
        )
    if found == "rest":
        return (
            f"What listens at {where} is an OpenAI-compatible REST service, which answers /v1/chat/completions, "
            f"not Triton. {_TRITONS_PORTS}."
        )
    if found == "metrics":
        return f"What listens at {where} are Triton's metrics. {_TRITONS_PORTS}."
    return f"What listens at {where} is a web server, but not Triton. {_TRITONS_PORTS}."


def listener(host: str, port: int, seconds: float) -> Listener | None:
    """Return what listens at a port; None if nothing does or it cannot be identified."""
    first = _first_bytes(host, port, seconds)
    if len(first) >= _FRAME_HEAD and first[3] == _SETTINGS and not first.startswith(b"HTTP/"):
        return "grpc"
    if (answer := _get(host, port, "/v2", seconds)) is None:
        return "tls" if _speaks_tls(host, port, seconds) else None
    status, text = answer
    if status >= http.client.INTERNAL_SERVER_ERROR:
        return None  # a gateway in front of a Triton that is starting
    if "extensions" in _document(text):
        return "triton"
    models = _document(_text(host, port, "/v1/models", seconds))
    error = models.get("error")
    if models.get("object") == "list" or (isinstance(error, dict) and "message" in error):
        return "rest"
    return "metrics" if b"\nnv_" in _text(host, port, "/metrics", seconds) else "http"


def _first_bytes(host: str, port: int, seconds: float) -> bytes:
    data = b""
    with contextlib.suppress(OSError), socket.create_connection((host, port), seconds) as connection:
        connection.sendall(_PREFACE)
        while len(data) < _FRAME_HEAD and (more := connection.recv(_FRAME_HEAD)):
            data += more
    return data


def _speaks_tls(host: str, port: int, seconds: float) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent or trusted
    try:
        with socket.create_connection((host, port), seconds) as plain, context.wrap_socket(plain):
            return True
    except OSError:
        return False


def _text(host: str, port: int, path: str, seconds: float) -> bytes:
    answer = _get(host, port, path, seconds)
    return b"" if answer is None else answer[1]


def _get(host: str, port: int, path: str, seconds: float) -> tuple[int, bytes] | None:
    """Return status and beginning of a response; None if there is none."""
    connection = http.client.HTTPConnection(host, port, timeout=seconds)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(_MOST_BYTES)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _document(text: bytes) -> dict[str, object]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
