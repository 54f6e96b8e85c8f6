"""Decides which hosts are contacted without the environment's proxy: this machine, and those that `no_proxy` names.

tritonclient and `clients.streaming` use no proxy over HTTP. gRPC uses `grpc_proxy`, `https_proxy` or `http_proxy`; that
stays so for other machines, because some can be reached only through it.
"""

import ipaddress
import socket
import urllib.request
from typing import Any
from urllib.parse import urlsplit

_GRPC_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Notice a server within a second of its start; gRPC's default back-off grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


def grpc_options(host: str) -> list[tuple[str, int]]:
    """Return the options of a gRPC channel to a host."""
    return [*_GRPC_OPTIONS, *([("grpc.enable_http_proxy", 0)] if is_direct(host) else [])]


def opener() -> urllib.request.OpenerDirector:
    """Return an opener of URLs that uses the environment's proxy for other machines only."""
    return urllib.request.build_opener(_ProxyForOthers)


def is_direct(host: str) -> bool:
    """Whether a host is contacted directly, whatever proxy the environment names."""
    if urllib.request.proxy_bypass(host):
        return True
    # Resolve names only if there is a proxy to avoid.
    if not urllib.request.getproxies_environment():
        return False
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return any(_is_own(family, address) for family, _, _, _, address in found)


def _is_own(family: int, address: Any) -> bool:
    if ipaddress.ip_address(address[0].partition("%")[0]).is_loopback:
        return True
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address[0], 0, *address[2:]))  # succeeds only for an address of this machine
    except OSError:
        return False
    return True


class _ProxyForOthers(urllib.request.ProxyHandler):
    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> Any:
        """Return None to open the URL directly, else the result of the base class."""
        host = urlsplit(req.full_url).hostname
        return None if host and is_direct(host) else super().proxy_open(req, proxy, type)
