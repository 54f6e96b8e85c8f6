"""Where and in which words a streaming model uses the ranks of its model: two stubs of one tritonserver, one socket.

The streaming model's stub (`remote_client.py`) sends sequences to the model's stub (`stub_server.py`), which treats
them like its own: the same admission, the same ranks.
"""

import os
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..common.protocol import ErrorKind, SequenceRequest, register


@register
@dataclass(frozen=True)
class Connect:
    """A remote client asks whether the stub server is there."""


@register
@dataclass(frozen=True)
class Accepted:
    """The stub server runs in process `pid`. It takes sequences once `max_prompt_bytes` is known."""

    pid: int
    max_prompt_bytes: int | None


@register
@dataclass(frozen=True)
class Rejected:
    """The remote client refused a request itself; `kind` is for the metrics, which the stub server has."""

    kind: ErrorKind


@register
@dataclass(frozen=True)
class Submit:
    """A sequence to continue; what comes of it has the same `id`: `Deltas` and a `Done`, or `Refused`.

    `priority` is what the request asked for, unchecked.
    """

    id: int
    sequence: SequenceRequest
    priority: Any = None


def socket_path(server: int, model: str, version: int) -> Path:
    """Return where the stub of a model listens; only this user may enter the folder.

    The name is short whatever the model's is: a socket's path has at most 107 bytes (unix(7)).

    Args:
        server: the process id of tritonserver, which all its stubs know.
        model: the model's name.
        version: its version.

    Raises:
        PermissionError: the folder belongs to somebody else.
    """
    folder = Path(tempfile.gettempdir(), f"trgen-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{folder} is not this user's alone; remove it.")
    return folder / f"{_processes()}-{server}-{sha256(f'{model}/{version}'.encode()).hexdigest()[:16]}"


def disconnected_marker(path: Path) -> Path:
    """Return the file that says that the stub server at `path` cannot load."""
    return path.with_name(f"{path.name}.failed")


def remove_leftovers(path: Path) -> None:
    """Remove what servers that have ended left beside `path`: sockets of killed ones, and disconnected markers."""
    for other in path.parent.glob(f"{_processes()}-*-*"):
        server = other.name.split("-")[1]
        if not Path("/proc", server).exists():
            other.unlink(missing_ok=True)


def _processes() -> int:
    """Return what tells this process's process ids from those of other containers that share its temporary folder."""
    return Path("/proc/self/ns/pid").stat().st_ino
