"""The socket and the messages through which a streaming model uses the ranks of another model's stub.

The streaming model's stub (`remote_client.py`) sends sequences to the model's stub (`stub_server.py`), which treats
them like its own: the same admission, the same ranks. Both stubs belong to one tritonserver.
"""

import os
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..common.protocol import ErrorKind, PromptLimit, SequenceRequest, register


@register
@dataclass(frozen=True)
class Connect:
    """A remote client asks whether the stub server takes sequences."""


@register
@dataclass(frozen=True)
class Accepted:
    """The answer to `Connect`: the stub server runs in process `pid`; with `prompt_limit` it takes sequences."""

    pid: int
    prompt_limit: PromptLimit | None


@register
@dataclass(frozen=True)
class Rejected:
    """The remote client has refused a request; the stub server, which has the metrics, counts it by `kind`."""

    kind: ErrorKind


@register
@dataclass(frozen=True)
class Submit:
    """A sequence to generate; its `Deltas` and its `Done` or `Refused` have the same `id`.

    `priority` is the one that the request asked for, unchecked.
    """

    id: int
    sequence: SequenceRequest
    priority: Any = None


def socket_path(server: int, model: str, version: int) -> Path:
    """Return the path of the socket at which the stub of a model listens, in a folder that only this user can access.

    A hash keeps the path short for any model name: a socket's path has at most 107 bytes (unix(7)).

    Args:
        server: the process id of tritonserver, which is the parent of all its stubs.
        model: the model's name.
        version: the model's version.

    Raises:
        PermissionError: the folder belongs to another user, or other users can access it.
    """
    folder = Path(tempfile.gettempdir(), f"trgen-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{folder} is not this user's alone; remove it.")
    return folder / f"{_processes()}-{server}-{sha256(f'{model}/{version}'.encode()).hexdigest()[:16]}"


def disconnected_marker(path: Path) -> Path:
    """Return the path of the file that marks the stub server at `path` as failed."""
    return path.with_name(f"{path.name}.failed")


def remove_leftovers(path: Path) -> None:
    """Remove the sockets and markers of servers that have ended from the folder of `path`."""
    for other in path.parent.glob(f"{_processes()}-*-*"):
        server = other.name.split("-")[1]
        if not Path("/proc", server).exists():
            other.unlink(missing_ok=True)


def _processes() -> int:
    """Return the id of this PID namespace: other containers that share the folder may have the same process ids."""
    return Path("/proc/self/ns/pid").stat().st_ino
