"""Finds and ends every process that a server started, wherever it was reparented to.

tritonserver starts stubs, a stub starts torchrun, torchrun starts ranks. When one of them is killed its children get
another parent, so the tree cannot be walked. They do inherit the environment: each server has a mark of its own in it.
"""

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

MARK = "TRGEN_SERVER_ID"
"""The environment variable that holds a server's mark."""

_PATIENCE = 2.0
"""Seconds between the steps of ending a process: by itself, after SIGTERM, after SIGKILL."""


def marked_processes(mark: str) -> list[int]:
    """Return the ids of the living processes that were started with `mark`, without this one."""
    entry = f"{MARK}={mark}".encode()
    return [pid for pid in _processes() if pid != os.getpid() and _has(pid, entry)]


def name_of(pid: int) -> str:
    """Return the name that a process has given itself, or its program's; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().removesuffix("\n")
    except OSError:
        return ""


def end_marked(mark: str, patience: float = _PATIENCE) -> list[int]:
    """End all processes that were started with `mark`: wait for them, then terminate, then kill.

    Args:
        mark: the value of the variable.
        patience: seconds to wait at each of the three steps.

    Returns:
        The ids of those that live on (a process that waits for a device cannot be killed); normally none.
    """
    for step in (None, signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
        if not (pids := marked_processes(mark)):
            return []
        _end(pids, mark, step, patience)
    return marked_processes(mark)


def wait_for(handles: list[int], seconds: float | None) -> list[int]:
    """Wait until one of these file descriptors is readable; return those that are, none after `seconds`."""
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    return [handle for handle, _ in poll.poll(None if seconds is None else seconds * 1000)]


def _end(pids: list[int], mark: str, step: signal.Signals | None, patience: float) -> None:
    """Send `step` (None: nothing) to the processes and wait up to `patience` seconds until all have ended."""
    entry = f"{MARK}={mark}".encode()
    with contextlib.ExitStack() as stack:
        handles = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                handle = os.pidfd_open(pid)
                stack.callback(os.close, handle)
                # The handle is safe from here on; asked again because the id may have been given to another process.
                if _has(pid, entry):
                    handles.append(handle)
        if step is not None:
            for handle in handles:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(handle, step)
        while handles and (ended := wait_for(handles, patience)):
            handles = [handle for handle in handles if handle not in ended]


def _processes() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _has(pid: int, entry: bytes) -> bool:
    """Whether the process was started with `entry` in its environment; a zombie has none left."""
    return entry in _environment(pid)


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
