"""Expands paths that users write, and finds the folders that are packed into the wheel."""

import contextlib
import re
from pathlib import Path

_PACKAGE = Path(__file__).parent


def expanded(path: Path | str) -> Path:
    """Return a path with its `~` expanded. One of an unknown user stays as it is, so that nothing is found there."""
    path = Path(path)
    with contextlib.suppress(RuntimeError):
        return path.expanduser()
    return path


def unreadable_for_triton(path: Path) -> str | None:
    """Return the first character of an absolute path that Triton's Python backend cannot read, if there is one.

    tritonserver 2.51 writes the path into the command line of the stub, which a shell reads: with a space the stub ends
    in `stol`, with a letter beyond ASCII in a traceback.
    """
    found = re.search(r"[^A-Za-z0-9/._+@%=:,~-]", str(path.absolute()))
    return found[0] if found else None


def carried_folder(name: str) -> Path:
    """Return a folder of the wheel: inside the installed package, or at the root of a checkout."""
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parents[1] / name
