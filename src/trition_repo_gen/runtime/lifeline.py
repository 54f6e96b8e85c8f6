"""A process that dies with the process that started it. Linux only; standard library only."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

PARENT_VARIABLE = "TRGEN_PARENT_PID"
"""Environment variable in which a parent tells its children its process id."""


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends.

    The parent may have died before this call: it is then told by its id, which it left in `PARENT_VARIABLE`.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    expected = os.environ.get(PARENT_VARIABLE)
    if expected and os.getppid() != int(expected):
        os.kill(os.getpid(), signal.SIGKILL)
