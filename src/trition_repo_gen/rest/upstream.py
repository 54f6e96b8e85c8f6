"""Adapts uvicorn where clients need it to behave differently."""

import resource

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_OFFERS = (b"upgrade", b"http2-settings")
_SPARE_DESCRIPTORS = 64
"""File descriptors reserved for files, pipes and the connection to Triton."""


class HttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 that declines upgrades to other protocols and closes idle connections when there are too many.

    uvicorn 0.54, `protocols/http/httptools_impl.py`, `data_received`: if a request offers an upgrade, httptools stops
    after the headers, and uvicorn drops the body and the rest of the connection. Java's HttpClient sends
    `Upgrade: h2c` with its first request to an http:// host. A server may ignore an upgrade (RFC 9110, 7.8).
    """

    max_connections = 0
    """Above this number, each new connection closes the longest idle one; 0 is no limit."""

    def connection_made(self, transport: object) -> None:
        """Register a new connection."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._idle_since = self.loop.time()
        if self.max_connections and len(self.connections) > self.max_connections:
            self._close_the_longest_idle()

    def on_response_complete(self) -> None:
        """Start the idle time after a response."""
        super().on_response_complete()
        self._idle_since = self.loop.time()

    def data_received(self, data: bytes) -> None:
        """Parse received bytes; headers that offer an upgrade are parsed again without the offer."""
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                if not self._offers_another_protocol():
                    return  # CONNECT: the rest is not HTTP
                data = self._head_without_offer() + data[offer.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            except httptools.HttpParserError:
                self.send_400_response("Invalid HTTP request received.")
                return
            else:
                return

    def on_headers_complete(self) -> None:
        """Start the request, unless its headers will be parsed again."""
        if not self._offers_another_protocol():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Finish the request, unless its headers will be parsed again."""
        if not self._offers_another_protocol():
            super().on_message_complete()

    def _offers_another_protocol(self) -> bool:
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def _head_without_offer(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                kept = [option for option in value.split(b",") if option.strip().lower() not in _OFFERS]
                value = b",".join(kept).strip()
            if value and name not in _OFFERS:
                lines.append(b"%b: %b" % (name, value))
        return b"\r\n".join([*lines, b"", b""])

    def _close_the_longest_idle(self) -> None:
        others = [each for each in self.connections if isinstance(each, HttpProtocol) and each is not self]
        idle = [each for each in others if each.cycle is None or each.cycle.response_complete]
        if idle:
            min(idle, key=lambda each: each._idle_since).timeout_keep_alive_handler()


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; return the number of connections it allows, 0 for any.

    Many systems set a soft limit of 1024 and a hard one of half a million.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return 0 if hard == resource.RLIM_INFINITY else max(1, hard - _SPARE_DESCRIPTORS)
