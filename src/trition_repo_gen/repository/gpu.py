"""Asks how much memory this machine's GPUs have."""

import shutil
import subprocess

_TIMEOUT = 15.0
"""Seconds to wait for nvidia-smi. GPUs that sleep take several to wake up."""


class NoAnswerError(Exception):
    """nvidia-smi did not answer in time; the text begins a sentence."""


def memory() -> int | None:
    """Return the bytes that programs can use of the smallest of this machine's GPUs; None where there is none.

    The driver reserves a part (on an H200, 0.6 of 140.4 GiB), which `nvidia-smi` counts in its total.

    Raises:
        NoAnswerError: `nvidia-smi` takes too long.
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
    """Return total minus reserved bytes of a line with both in MiB. Some GPUs do not report what is reserved."""
    total, _, reserved = line.partition(",")
    kept = int(reserved) if reserved.strip().isdigit() else 0
    return (int(total) - kept) * 2**20
