"""Refuse a distributed checkpoint whose index, `.metadata`, could run code: it is a pickle.

torch unpickles it unchecked (torch 2.11, distributed/checkpoint/filesystem.py:930), so it is checked before.
"""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path
from typing import Any

import torch

from ...common.errors import LoadError

_CLASSES_OF = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.planner")
"""Modules of the classes that an index consists of."""
_NAMES = frozenset(
    {
        ("builtins", "set"),
        ("collections", "OrderedDict"),
        ("pathlib", "Path"),
        ("pathlib", "PosixPath"),
        ("torch", "Size"),
        ("torch", "device"),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        ("torch.serialization", "_get_layout"),
    }
)


def require_harmless(folder: Path) -> None:
    """Read the index with an unpickler that accepts only the classes that an index consists of.

    Args:
        folder: of the distributed checkpoint.

    Raises:
        LoadError: it names anything else, or is damaged. Nothing that it names was imported.
    """
    path = folder / ".metadata"
    try:
        with path.open("rb") as file:
            _Reader(file).load()
    except LoadError as error:
        raise LoadError(
            f"{path} names {error}, which no checkpoint's index holds and which could run anything; "
            "it was not imported. Use a checkpoint from a source that you trust."
        ) from None
    except Exception as error:  # pickle raises whatever a broken file makes it raise
        raise LoadError(f"{path} is damaged ({type(error).__name__}: {error}); copy or save it again.") from error


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _NAMES:
            return super().find_class(module, name)
        if module in _CLASSES_OF and "." not in name:
            found = getattr(importlib.import_module(module), name, None)
            if isinstance(found, type) and found.__module__ == module:
                return found
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise LoadError(f"{module}.{name}")
