"""Expands paths that users write, and finds the folders that are packed into the wheel."""

import contextlib
from pathlib import Path

_PACKAGE = Path(__file__).parent


def expanded(path: Path | str) -> Path:
    """Return a path with its `~` expanded. One of an unknown user stays as it is, so that nothing is found there."""
    path = Path(path)
    with contextlib.suppress(RuntimeError):
        return path.expanduser()
    return path


def carried_folder(name: str) -> Path:
    """Return a folder of the wheel: inside the installed package, or at the root of a checkout."""
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parents[1] / name
