"""What stands before the service: keys, the size and the rate of requests, and trailing slashes."""

import hashlib
import hmac
import math
import time
from collections import OrderedDict
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trition_repo_gen.errors import ServerError

from .errors import ApiError

_REMEMBERED_CLIENTS = 10_000


class ApiKeys:
    """The keys that may ask. They are kept as digests, and all of them are compared in constant time."""

    def __init__(self, keys: list[str]) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    @classmethod
    def read(cls, path: Path) -> "ApiKeys":
        """Read a file with one key a line; empty lines, and those that begin with '#', do not count.

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
        """Return which key an Authorization header has, or None."""
        scheme, _, key = authorization.partition(b" ")
        digest = _digest(key.strip())
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return matches.index(True) if scheme.lower() == b"bearer" and any(matches) else None


class Rate:
    """Lets each client make so many requests a minute: a bucket of as many tokens, filled steadily.

    Args:
        per_minute: 0 is no limit.
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """For each client how many requests it has left, and when that was so; the latest to ask comes last."""

    def seconds_until_free(self, client: str, now: float) -> float:
        """Count a request; return 0 if it is within the limit, else after how many seconds one would be."""
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
    """An ASGI application that lets through to another one what is within the bounds.

    Args:
        app: the other one.
        open_paths: what needs no key and is not counted.
        keys: who may ask; None lets everybody.
        max_body_bytes: of one request.
        rate: requests a minute.
        max_concurrent: POST requests under way; 0 is no limit.
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
        """Handle one connection's request, or the application's own life cycle."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # The older service's clients write a slash at the end.
        path = scope["path"].rstrip("/") or "/"
        scope = {**scope, "path": path, "raw_path": path.encode()}
        if path in self._open_paths:
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        self._running += 1
        try:
            await self._app(scope, self._bounded(receive), send)
        finally:
            self._running -= 1

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        client = f"address {scope['client'][0]}" if scope.get("client") else "unknown"
        authorized = True
        if self._keys is not None:
            key = self._keys.find(headers.get(b"authorization", b""))
            authorized = key is not None
            client = f"key {key}" if authorized else client
        # Those without a key are counted, too: so keys cannot be guessed quickly.
        if wait := self._rate.seconds_until_free(client, time.monotonic()):
            raise _too_many("There were too many requests in the last minute; try again later.", wait)
        if not authorized:
            message = "The API key is missing or wrong; send it as Authorization: Bearer KEY."
            raise ApiError(401, message, code="invalid_api_key")
        if scope["method"] != "POST":
            return
        if self._running >= self._max_concurrent:
            raise _too_many("There are too many requests under way; try again later.", 1)
        length = headers.get(b"content-length", b"0")
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


def _too_many(message: str, seconds: float) -> ApiError:
    error = ApiError(429, message, code="rate_limit_exceeded")
    error.headers = {"Retry-After": str(math.ceil(seconds))}
    return error


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
