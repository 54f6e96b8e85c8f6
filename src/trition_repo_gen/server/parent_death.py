"""Becomes tritonserver, after asking the kernel to end this process when its parent dies. Run as a script.

    python parent_death.py PARENT_PID PROGRAM ARGUMENT...

A program of its own because the other way, code between fork and exec, can deadlock in a process that has threads, as
one that has used gRPC does. Standard library only, and little of it: it is on the way of every start.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Replace this process by the program."""
    parent, program, *arguments = sys.argv[1:]
    # What ends tritonserver ends this, too: no traceback, and no ignoring that a shell's `&` may have passed down.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit(1)  # it died before the kernel knew
    try:
        os.execv(program, [program, *arguments])
    except OSError as error:
        sys.exit(f"error: {program} cannot be started ({error.strerror}); write another one with --tritonserver.")


if __name__ == "__main__":
    main()
