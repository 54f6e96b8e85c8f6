"""Checks requests before the service sees them: API key, rate, number, size and encoding; adapts paths and HEAD."""

import hashlib
import hmac
import math
import time
from collections import OrderedDict
from pathlib import Path

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trition_repo_gen.errors import ServerError

from .encodings import content_encoding, decompressed
from .errors import ApiError

_REMEMBERED_CLIENTS = 10_000


class ApiKeys:
    """The accepted API keys, stored as digests and compared in constant time."""

    def __init__(self, keys: list[str]) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    @classmethod
    def read(cls, path: Path) -> "ApiKeys":
        """Read a file with one key per line; empty lines and lines that begin with '#' are skipped.

        Raises:
            ServerError: it cannot be read, or has no key.
        """
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ServerError(f"--api-key-file {str(path)!r} cannot be read ({reason}); name another file.") from None
        if not (keys := [line for line in lines if line and not line.startswith("#")]):
            raise ServerError(f"--api-key-file {str(path)!r} has no key; write one a line.")
        return cls(keys)

    def find(self, authorization: bytes) -> int | None:
        """Return the index of the key in an Authorization header, or None."""
        scheme, _, key = authorization.partition(b" ")
        digest = _digest(key.strip())
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return matches.index(True) if scheme.lower() == b"bearer" and any(matches) else None


class Rate:
    """Limits the requests per minute of each client with a token bucket.

    Args:
        per_minute: 0 is no limit.
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """For each client its remaining requests and the time of that count; the most recent client is last."""

    def seconds_until_free(self, client: str, now: float) -> float:
        """Count a request; return 0 if it is within the limit, else the seconds until the next one is."""
        if not self._per_minute:
            return 0.0
        per_second = self._per_minute / 60
        left, since = self._buckets.pop(client, (float(self._per_minute), now))
        left = min(float(self._per_minute), left + (now - since) * per_second)
        wait = max(0.0, (1 - left) / per_second)
        self._buckets[client] = (left if wait else left - 1, now)
        if len(self._buckets) > _REMEMBERED_CLIENTS:
            self._buckets.popitem(last=False)
        return wait


class Guard:
    """An ASGI application that passes requests within the limits on to another one.

    Args:
        app: the application behind it.
        open_paths: paths that need no key and are not counted.
        keys: the accepted keys; None accepts every request.
        max_body_bytes: most bytes of one request's body, after decompression.
        rate: the limit of requests per minute.
        max_concurrent: most POST requests in progress; 0 is no limit.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        open_paths: frozenset[str],
        keys: ApiKeys | None,
        max_body_bytes: int,
        rate: Rate,
        max_concurrent: int,
    ) -> None:
        self._app = app
        self._open_paths = open_paths
        self._keys = keys
        self._max_body_bytes = max_body_bytes
        self._rate = rate
        self._max_concurrent = max_concurrent or math.inf
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or a lifespan event."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Clients of NeMo's service write a slash at the end.
        path = scope["path"].rstrip("/") or "/"
        scope = {**scope, "path": path, "raw_path": path.encode()}
        if scope["method"] == "HEAD":
            scope["method"], send = "GET", _without_body(send)
        if path == "*" and scope["method"] == "OPTIONS":
            await Response(status_code=204, headers={"Allow": "GET, HEAD, POST, OPTIONS"})(scope, receive, send)
            return
        if path in self._open_paths or scope["method"] == "OPTIONS":  # browsers send OPTIONS without the key
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
            encoding = content_encoding(_header(scope, b"content-encoding")) if scope["method"] == "POST" else None
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        receive = self._bounded(receive)
        if encoding is not None:
            receive = decompressed(receive, encoding, self._max_body_bytes, self._too_large)
        self._running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running -= 1

    def _check(self, scope: Scope) -> None:
        client = f"address {scope['client'][0]}" if scope.get("client") else "unknown"
        authorized = True
        if self._keys is not None:
            key = self._keys.find(_header(scope, b"authorization"))
            authorized = key is not None
            client = f"key {key}" if authorized else client
        # Count requests without a valid key too, so that keys cannot be guessed quickly.
        if wait := self._rate.seconds_until_free(client, time.monotonic()):
            raise _too_many("There were too many requests in the last minute; try again later.", wait)
        if not authorized:
            message = "The API key is missing or wrong; send it as Authorization: Bearer KEY."
            raise ApiError(401, message, code="invalid_api_key")
        if scope["method"] != "POST":
            return
        if self._running >= self._max_concurrent:
            raise _too_many("There are too many requests under way; try again later.", 1)
        length = _header(scope, b"content-length")
        if length.isdigit() and int(length) > self._max_body_bytes:
            raise self._too_large()

    def _bounded(self, receive: Receive) -> Receive:
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise self._too_large()
            return message

        return bounded

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The request has more than {self._max_body_bytes} bytes.", code="request_too_large")


def _header(scope: Scope, name: bytes) -> bytes:
    """Return a header's value, joined if it is repeated (RFC 9110, 5.3); empty if it is missing."""
    return b",".join(value for key, value in scope["headers"] if key == name)


def _without_body(send: Send) -> Send:
    async def sending(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return sending


def _too_many(message: str, seconds: float) -> ApiError:
    error = ApiError(429, message, code="rate_limit_exceeded")
    error.headers = {"Retry-After": str(math.ceil(seconds))}
    return error


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
