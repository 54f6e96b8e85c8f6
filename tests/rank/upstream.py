"""What every upstream mend is there for: a text in an installed library. Where it is gone, the mend can go, too."""

import inspect
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import NamedTuple


class Upstream(NamedTuple):
    """A file of an installed library and the text in it that a mend is for."""

    file: str
    text: str


def assert_needed(mend: str, upstream: Upstream) -> None:
    """Fail if the installed library is not any more what the mend was written against."""
    path = Path(sysconfig.get_paths()["purelib"]) / upstream.file
    assert path.exists(), f"{upstream.file} is gone: look at {mend} again"
    assert upstream.text in path.read_text(encoding="utf-8"), f"{upstream.file} has changed: look at {mend} again"


def functions_of(module: ModuleType) -> set[str]:
    """Return the names of the functions that a module defines."""
    return {
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    }
