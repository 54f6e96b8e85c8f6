"""Helpers of the end-to-end tests: the REST service in front of a tritonserver that runs."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from trition_repo_gen.server import free_ports

TRGEN = Path(sys.executable).with_name("trgen")


@contextlib.contextmanager
def rest_service(grpc: str | None, *flags: str | Path) -> Iterator[str]:
    """Run `trgen rest` for the tritonserver at `grpc`; gives http://HOST:PORT. It has to end in order."""
    assert grpc is not None
    (port,) = free_ports(1)
    command = [TRGEN, "rest", "--triton", grpc, "--server-port", str(port), "--server-address", "127.0.0.1", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        assert line == f"rest: http://127.0.0.1:{port}"
        yield line.removeprefix("rest: ")
    finally:
        process.terminate()
        process.communicate()
    assert process.returncode == 0
