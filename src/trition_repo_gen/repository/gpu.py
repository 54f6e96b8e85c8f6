"""How much memory this machine's GPUs have."""

import shutil
import subprocess

_TIMEOUT = 2.0
"""Seconds. A machine whose GPUs sleep may take longer; then it counts as one that does not know."""


def memory() -> int | None:
    """Return the bytes that programs can have of the smallest of this machine's GPUs; None where there is none.

    The driver keeps a part to itself (on an H200 0.6 of 140.4 GiB), which `nvidia-smi` counts in its total.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=memory.total,memory.reserved", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_TIMEOUT, check=True).stdout
        sizes = [_usable(line) for line in answer.splitlines()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return min(sizes, default=None)


def _usable(line: str) -> int:
    """Return the bytes that a line's two numbers, in MiB, leave; some GPUs do not say what is reserved."""
    total, _, reserved = line.partition(",")
    kept = int(reserved) if reserved.strip().isdigit() else 0
    return (int(total) - kept) * 2**20
