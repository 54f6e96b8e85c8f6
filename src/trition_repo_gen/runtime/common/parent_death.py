"""A process that dies with the process that started it. Linux only; standard library only.

Run as a program, `parent_death.py VICTIM AWAITED` kills a process when another ends, and ends with either.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_NAME = 15

PARENT_VARIABLE = "TRGEN_PARENT_PID"
"""Environment variable in which a parent tells its children its process id."""

GRANDPARENT_VARIABLE = "TRGEN_GRANDPARENT_PID"
"""Environment variable with the process id of the parent's own parent, where the parent should not outlive that."""


def end_parent_with_grandparent() -> None:
    """Kill the parent when its own parent ends.

    Triton's stub cannot do it itself: what it asks a tritonserver that was killed is never answered, and while it waits
    no Python code runs in it.
    """
    parent, grandparent = os.environ.get(PARENT_VARIABLE), os.environ.pop(GRANDPARENT_VARIABLE, None)
    if parent and grandparent:
        threading.Thread(target=_kill_after, args=(int(parent), int(grandparent)), daemon=True).start()


class Guardian:
    """A small process that kills this one when `awaited` ends, even where no Python code runs here any more.

    For a stub without ranks; see `end_parent_with_grandparent`.
    """

    def __init__(self, awaited: int):
        # Triton's stub is no interpreter; it takes its packages from the one that is first on PATH.
        self._process = subprocess.Popen(
            ["python3", "-I", "-S", __file__, str(os.getpid()), str(awaited)], stdin=subprocess.DEVNULL
        )

    def dismiss(self) -> None:
        """End the small process."""
        self._process.kill()
        self._process.wait()


def _kill_after(victim: int, awaited: int) -> None:
    """Wait until a process has ended, then kill another; if that one ends first, return."""
    try:
        ends = [os.pidfd_open(victim)]
    except ProcessLookupError:
        return
    try:
        ends.append(os.pidfd_open(awaited))
        poll = select.poll()
        for descriptor in ends:
            poll.register(descriptor, select.POLLIN)
        if any(descriptor == ends[0] for descriptor, _ in poll.poll()):
            return
    except ProcessLookupError:
        pass
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(ends[0], signal.SIGKILL)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends.

    The parent may have died before this call: its id in `PARENT_VARIABLE` then differs from the current parent's.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    expected = os.environ.get(PARENT_VARIABLE)
    if expected and os.getppid() != int(expected):
        os.kill(os.getpid(), signal.SIGKILL)


def name_process(name: str) -> None:
    """Name this process as `ps` and /proc/PID/comm show it; at most 15 characters. To be called on its first thread."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode())


if __name__ == "__main__":
    _kill_after(int(sys.argv[1]), int(sys.argv[2]))
