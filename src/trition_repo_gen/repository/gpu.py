"""How much memory this machine's GPUs have."""

import shutil
import subprocess

_TIMEOUT = 15.0
"""Seconds. GPUs that sleep take several to wake up."""


class NoAnswerError(Exception):
    """This machine's GPUs did not say in time what they have; the text begins a sentence."""


def memory() -> int | None:
    """Return the bytes that programs can have of the smallest of this machine's GPUs; None where there is none.

    The driver keeps a part to itself (on an H200 0.6 of 140.4 GiB), which `nvidia-smi` counts in its total.

    Raises:
        NoAnswerError: there may be some, but `nvidia-smi` takes too long.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=memory.total,memory.reserved", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_TIMEOUT, check=True).stdout
        sizes = [_usable(line) for line in answer.splitlines()]
    except subprocess.TimeoutExpired:
        raise NoAnswerError(f"nvidia-smi did not say within {_TIMEOUT:g} s what this machine's GPUs have") from None
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return min(sizes, default=None)


def _usable(line: str) -> int:
    """Return the bytes that a line's two numbers, in MiB, leave; some GPUs do not say what is reserved."""
    total, _, reserved = line.partition(",")
    kept = int(reserved) if reserved.strip().isdigit() else 0
    return (int(total) - kept) * 2**20
