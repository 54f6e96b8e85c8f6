"""Reads the URL of a server."""

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from trition_repo_gen.addresses import TRITON_GRPC_PORT, TRITON_HTTP_PORT, netloc, reachable
from trition_repo_gen.errors import QueryError

Protocol = Literal["http", "https", "grpc", "grpcs"]

_DEFAULT_PORTS: dict[Protocol, int] = {
    "http": TRITON_HTTP_PORT,
    "https": TRITON_HTTP_PORT,
    "grpc": TRITON_GRPC_PORT,
    "grpcs": TRITON_GRPC_PORT,
}
_FORM = "write HOST, HOST:PORT, http://HOST:PORT or grpc://HOST:PORT"


@dataclass(frozen=True)
class ServerAddress:
    """A host, a port and a protocol."""

    protocol: Protocol
    host: str
    port: int

    @property
    def netloc(self) -> str:
        """`host:port`, as tritonclient takes it."""
        return netloc(self.host, self.port)

    @property
    def encrypted(self) -> bool:
        """Whether the protocol uses TLS."""
        return self.protocol.endswith("s")

    @property
    def grpc(self) -> bool:
        """Whether the protocol is gRPC."""
        return self.protocol.startswith("grpc")

    def __str__(self) -> str:
        return f"{self.protocol}://{self.netloc}"


def parse_url(url: str) -> ServerAddress:
    """Read `host`, `host:port` or either after `http://`, `https://`, `grpc://` or `grpcs://`.

    The default protocol is HTTP, the default port 8000 for HTTP and 8001 for gRPC. A wildcard address such as 0.0.0.0,
    to which a server may be bound, means this machine.

    Raises:
        QueryError: the URL has another form.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        scheme, host, port = parts.scheme, parts.hostname, parts.port
        (host or "").encode("idna")  # as a socket does; it refuses empty and too long labels
    except ValueError as error:
        raise QueryError(f"The URL {url!r} cannot be read ({error}); {_FORM}.") from None
    protocol = next((known for known in _DEFAULT_PORTS if known == scheme), None)
    if protocol is None:
        raise QueryError(f"The URL {url!r} has the scheme {scheme!r}; {_FORM}.")
    if not host:
        raise QueryError(f"The URL {url!r} has no host; {_FORM}.")
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username:
        raise QueryError(f"The URL {url!r} says more than where the server is; {_FORM}.")
    return ServerAddress(protocol, reachable(host), _DEFAULT_PORTS[protocol] if port is None else port)
