"""Paths as users write them, and of what trgen carries."""

import contextlib
from pathlib import Path

_PACKAGE = Path(__file__).parent


def expanded(path: Path | str) -> Path:
    """Return a path with a home folder for its `~`; one of nobody's stays, so that nothing is found there."""
    path = Path(path)
    with contextlib.suppress(RuntimeError):
        return path.expanduser()
    return path


def carried_folder(name: str) -> Path:
    """Return a folder that trgen carries beside its modules: in the installed package, or at the root of a checkout."""
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parents[1] / name
