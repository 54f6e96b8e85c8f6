"""Run commands that have to succeed."""

import subprocess
from collections.abc import Sequence
from pathlib import Path


def run(command: Sequence[str | Path], cwd: Path | None = None) -> str:
    """Run a command; return what it printed.

    Raises:
        AssertionError: it failed; the error shows the end of its output.
    """
    completed = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout[-1000:] + completed.stderr[-4000:]
    return completed.stdout
