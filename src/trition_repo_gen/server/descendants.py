"""Finds and ends all processes that descend from a server, also those that have lost their parent.

tritonserver starts stubs, a stub starts torchrun, torchrun starts ranks. The children of a killed process get another
parent, so that the process tree is incomplete. Instead, each server sets a unique mark in the environment, which all
descendants inherit.
"""

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

MARK = "TRGEN_SERVER_ID"
"""The environment variable with the mark of a server."""

_STEP_SECONDS = 2.0
"""Seconds to wait in each step of ending processes: without a signal, after SIGTERM, after SIGKILL."""


def marked_processes(mark: str) -> list[int]:
    """Return the ids of the running processes with this mark, except the current one."""
    entry = f"{MARK}={mark}".encode()
    return [pid for pid in _processes() if pid != os.getpid() and _has(pid, entry)]


def name_of(pid: int) -> str:
    """Return the name of a process as in /proc/PID/comm; an empty string if it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().removesuffix("\n")
    except OSError:
        return ""


def end_marked(mark: str, step_seconds: float = _STEP_SECONDS) -> list[int]:
    """End all processes with this mark: wait for their end, then terminate, then kill them.

    Args:
        mark: the value of the variable `MARK`.
        step_seconds: seconds to wait in each step.

    Returns:
        The ids of processes that still run, normally none. A process that waits for a device cannot be killed.
    """
    for step in (None, signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
        if not (pids := marked_processes(mark)):
            return []
        _end(pids, mark, step, step_seconds)
    return marked_processes(mark)


def wait_for(handles: list[int], seconds: float | None) -> list[int]:
    """Wait until one of these file descriptors is readable; return the readable ones, none after `seconds`."""
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    return [handle for handle, _ in poll.poll(None if seconds is None else seconds * 1000)]


def _end(pids: list[int], mark: str, step: signal.Signals | None, step_seconds: float) -> None:
    """Send a signal (None: no signal) to the processes, and wait up to `step_seconds` until all have ended."""
    entry = f"{MARK}={mark}".encode()
    with contextlib.ExitStack() as stack:
        handles = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                handle = os.pidfd_open(pid)
                stack.callback(os.close, handle)
                # Checked again: before `pidfd_open` the id may have passed to another process.
                if _has(pid, entry):
                    handles.append(handle)
        if step is not None:
            for handle in handles:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(handle, step)
        while handles and (ended := wait_for(handles, step_seconds)):
            handles = [handle for handle in handles if handle not in ended]


def _processes() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _has(pid: int, entry: bytes) -> bool:
    """Return whether the environment of the process has this entry; that of a zombie is empty."""
    return entry in _environment(pid)


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
