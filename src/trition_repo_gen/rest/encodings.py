"""Decompresses request bodies: gzip and deflate, with a limit on the decompressed size."""

import zlib
from collections.abc import Callable

from starlette.types import Message, Receive

from .errors import ApiError

_AUTO = 32 + zlib.MAX_WBITS
"""Accept the header of zlib or of gzip."""
_GZIP = (b"gzip", b"x-gzip")
_BROKEN = "The request's body is not valid {}, as its Content-Encoding says; send it whole, or as it is."


def content_encoding(header: bytes) -> bytes | None:
    """Return the encoding of a compressed body, or None if it is not compressed.

    Args:
        header: the value of Content-Encoding; empty if it is missing.

    Raises:
        ApiError: the encoding is not supported.
    """
    codings = [coding.strip().lower() for coding in header.split(b",")]
    codings = [coding for coding in codings if coding not in (b"", b"identity")]
    if not codings:
        return None
    if len(codings) == 1 and codings[0] in (*_GZIP, b"deflate"):
        return b"gzip" if codings[0] in _GZIP else codings[0]
    shown = header.decode("latin-1")[:60]
    error = ApiError(
        415, f"The request's body has the Content-Encoding {shown!r}; send it as gzip, as deflate, or as it is."
    )
    error.headers = {"Accept-Encoding": "gzip, deflate"}
    raise error


def decompressed(receive: Receive, encoding: bytes, most_bytes: int, too_large: Callable[[], ApiError]) -> Receive:
    """Return a `receive` that decompresses the body while it arrives.

    It raises an `ApiError` if the body is invalid or larger than `most_bytes`, and holds no more than that in memory.
    """
    stream = _Stream(encoding)
    total = 0

    async def decompressing() -> Message:
        nonlocal total
        message = await receive()
        if message["type"] != "http.request":
            return message
        body = stream.feed(message.get("body", b""), most_bytes - total + 1)
        total += len(body)
        if total > most_bytes:
            raise too_large()
        if not message.get("more_body", False):
            stream.check_end()
        return {**message, "body": body}

    return decompressing


class _Stream:
    def __init__(self, encoding: bytes) -> None:
        self._encoding = encoding
        self._inflate = zlib.decompressobj(_AUTO)
        self._started = False

    def feed(self, data: bytes, most_bytes: int) -> bytes:
        """Return the decompressed data, cut after `most_bytes`."""
        parts = []
        while data and most_bytes > 0:
            if self._inflate.eof or not self._started:
                self._begin(data)
            try:
                parts.append(self._inflate.decompress(data, most_bytes))
            except zlib.error:
                raise self._broken() from None
            most_bytes -= len(parts[-1])
            # Concatenated gzip members are one body; nothing else may follow.
            data = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
            if self._inflate.eof and data and self._encoding != b"gzip":
                raise self._broken()
        return b"".join(parts)

    def check_end(self) -> None:
        """Raise an error if the body ended too early."""
        if self._started and not self._inflate.eof:
            raise self._broken()

    def _begin(self, data: bytes) -> None:
        self._started = True
        # Some clients send deflate without zlib's header (RFC 9110, 8.4.1.2), whose first byte is 0x08 to 0x78.
        raw = self._encoding == b"deflate" and data[0] & 0x8F != 0x08
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS if raw else _AUTO)

    def _broken(self) -> ApiError:
        return ApiError(400, _BROKEN.format(self._encoding.decode()))
