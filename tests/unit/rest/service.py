"""The REST service as a process of its own, in front of a small model."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping

from trition_repo_gen.server import free_ports

ENDS_WITHIN = 30


@contextlib.contextmanager
def running_service(
    triton: str, before: Callable[[], None] | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[str, int]]:
    """Run `trgen rest` in front of `triton`; gives host and port.

    Args:
        triton: HOST:PORT of Triton's gRPC endpoint.
        before: called in the new process before the service starts.
        environment: variables that are added to this process's.
    """
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "trition_repo_gen", "rest", "--triton", triton, "--server-port", str(port)]
    process = subprocess.Popen(
        [*command, "--server-address", "127.0.0.1", "--max-body-mib", "1"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | dict(environment or {}),
        preexec_fn=before,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"rest: http://127.0.0.1:{port}\n"
        yield "127.0.0.1", port
    finally:
        process.terminate()
        process.communicate(timeout=ENDS_WITHIN)
    assert process.returncode == 0
