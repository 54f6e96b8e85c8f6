"""Paths as users write them."""

import contextlib
from pathlib import Path


def expanded(path: Path | str) -> Path:
    """Return a path with a home folder for its `~`; one of nobody's stays, so that nothing is found there."""
    path = Path(path)
    with contextlib.suppress(RuntimeError):
        return path.expanduser()
    return path
