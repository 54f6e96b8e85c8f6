"""Addresses and ports of the servers: their defaults, and how they are written. Standard library only."""

ANY_ADDRESS = "0.0.0.0"
"""What a server listens on unless the user says otherwise: every interface of the machine."""
TRITON_HTTP_PORT = 8000
TRITON_GRPC_PORT = 8001
TRITON_METRICS_PORT = 8002
REST_PORT = 8080

_WILDCARDS = {ANY_ADDRESS: "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def reachable(address: str) -> str:
    """Return where a server on this machine is reached that listens on an address, which may be a wildcard."""
    return _WILDCARDS.get(address, address)


def netloc(host: str, port: int) -> str:
    """Return HOST:PORT, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
