"""Executes a program with a parent-death signal: the kernel ends it when its parent dies. Run as a script.

    python parent_death.py PARENT_PID PROGRAM ARGUMENT...

It is a separate program because code between fork and exec (`preexec_fn`) can deadlock in a process with threads, such
as one that has used gRPC. It imports little of the standard library because every start of a server waits for it.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Replace this process by the program given on the command line."""
    parent, program, *arguments = sys.argv[1:]
    # Default handlers: no traceback, and no ignored SIGINT inherited from a shell's `&`.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit(1)  # the parent died before the call of prctl
    try:
        os.execv(program, [program, *arguments])
    except OSError as error:
        sys.exit(f"error: {program} cannot be started ({error.strerror}); write another one with --tritonserver.")


if __name__ == "__main__":
    main()
