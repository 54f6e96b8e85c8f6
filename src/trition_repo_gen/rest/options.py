"""The settings of the REST service."""

from dataclasses import dataclass
from pathlib import Path

from trition_repo_gen.addresses import ANY_ADDRESS, REST_PORT, TRITON_GRPC_PORT


@dataclass(frozen=True, kw_only=True)
class RestOptions:
    """How a REST service runs."""

    triton: str = f"127.0.0.1:{TRITON_GRPC_PORT}"
    """HOST:PORT of Triton's gRPC endpoint."""
    address: str = ANY_ADDRESS
    port: int = REST_PORT
    api_key_file: Path | None = None
    """A file with one API key per line; None accepts requests without a key."""
    max_body_mib: int = 32
    """MiB of the largest accepted body, after decompression."""
    max_requests_per_minute: int = 6000
    """Per key, or per client address if there are no keys; 0 is no limit."""
    max_concurrent_requests: int = 1024
    """Most requests for answers in progress at the same time; 0 is no limit."""
