"""What the REST service is told when it starts."""

from dataclasses import dataclass
from pathlib import Path

from trition_repo_gen.addresses import ANY_ADDRESS, REST_PORT, TRITON_GRPC_PORT


@dataclass(frozen=True, kw_only=True)
class RestOptions:
    """The settings of a REST service."""

    triton: str = f"127.0.0.1:{TRITON_GRPC_PORT}"
    """HOST:PORT of Triton's gRPC endpoint."""
    address: str = ANY_ADDRESS
    port: int = REST_PORT
    api_key_file: Path | None = None
    """A file with one key a line; without it everybody may ask."""
    max_body_mib: int = 32
    """Size of the largest request that is read."""
    max_requests_per_minute: int = 6000
    """Of one key, or without keys of one address; 0 is no limit."""
    max_concurrent_requests: int = 1024
    """Requests for answers that may be under way at once; 0 is no limit."""
