"""How this backend changes other libraries: replace a name that exists, or say what is different."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

MADE_FOR = {"torch": "2.11", "megatron-core": "0.19", "megatron-bridge": "0.6"}
"""Distribution → the version line whose sources the patches were read against."""


class PatchError(RuntimeError):
    """A library that the CPU backend patches has another shape than the version it was made for."""

    def __init__(self, distribution: str, what: str) -> None:
        try:
            installed = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            installed = "missing"
        super().__init__(
            f"{distribution} {installed} has {what}; the CPU backend is made for {distribution} "
            f"{MADE_FOR[distribution]}, install that version."
        )


def replace(distribution: str, owner: Any, name: str, value: Any) -> Any:
    """Set `owner.name` and return what was there.

    Raises:
        PatchError: `owner` has no such attribute.
    """
    try:
        old = getattr(owner, name)
    except AttributeError:
        raise PatchError(distribution, f"no {getattr(owner, '__name__', owner)}.{name}") from None
    setattr(owner, name, value)
    return old


def require_module(distribution: str, name: str) -> ModuleType:
    """Import and return a module.

    Raises:
        PatchError: there is no such module.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise PatchError(distribution, f"no module {name}") from None


def require_parameters(distribution: str, function: Callable[..., Any], names: Iterable[str]) -> None:
    """Check that a function still takes these parameters.

    Raises:
        PatchError: one of them is gone.
    """
    have = inspect.signature(function).parameters
    for name in names:
        if name not in have:
            raise PatchError(distribution, f"no parameter {name!r} in {function.__qualname__}")
