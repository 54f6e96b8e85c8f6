"""A process that dies with the process that started it. Linux only; standard library only."""

import ctypes
import os
import select
import signal
import threading

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

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


def _kill_after(victim: int, awaited: int) -> None:
    try:
        descriptor = os.pidfd_open(awaited)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll()
    except ProcessLookupError:
        pass
    os.kill(victim, signal.SIGKILL)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends.

    The parent may have died before this call: it is then told by its id, which it left in `PARENT_VARIABLE`.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    expected = os.environ.get(PARENT_VARIABLE)
    if expected and os.getppid() != int(expected):
        os.kill(os.getpid(), signal.SIGKILL)
