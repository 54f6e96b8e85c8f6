"""Read names and shapes of weights from the index of a distributed checkpoint, `.metadata`, without torch.

The index is a pickle (torch 2.11, distributed/checkpoint/metadata.py). No class that it names is imported.
"""

import gc
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from trition_repo_gen.checkpoints.megatron_folders import DCP_METADATA

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a weight → its whole shape, however many ranks saved a part of it."""

_OPTIMIZER = re.compile(r"(^|\.)optimizer\.|^chained_\d")
"""Names of the optimizer's state, which has the weights' shapes."""


def shapes(folder: Path) -> Shapes:
    """Return the shapes of a checkpoint's weights; none where the index cannot be read.

    Args:
        folder: of the distributed checkpoint.
    """
    try:
        listed = vars(_load(folder / DCP_METADATA))["state_dict_metadata"]
        entries = {name: vars(entry).get("size") for name, entry in listed.items() if not _OPTIMIZER.search(name)}
    except Exception:  # a broken pickle can raise anything; the ranks report what is wrong with it
        return {}
    return {name: size for name, size in entries.items() if _is_shape(size)}


def _load(path: Path) -> object:
    collects = gc.isenabled()
    gc.disable()  # a third of the time with many experts: each has a record in each layer
    try:
        with path.open("rb") as file:
            return _Reader(file).load()
    finally:
        if collects:
            gc.enable()


def _is_shape(size: object) -> bool:
    return isinstance(size, tuple) and all(isinstance(length, int) for length in size)


class _Record:
    """Stands for a dataclass and keeps its attributes."""


class _Opaque:
    """Stands for an object of any other class and discards its state."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass


_RECORDS = {
    "BytesStorageMetadata",
    "ChunkStorageMetadata",
    "Metadata",
    "MetadataIndex",
    "TensorStorageMetadata",
    "_StorageInfo",
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch", "Size"):
            return tuple
        return _Record if name in _RECORDS else _Opaque
