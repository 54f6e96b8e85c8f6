"""Find the loader of a kind of checkpoint: the module of its name in this folder. Imports nothing heavy by itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

from ...common import checkpoint_kinds
from ...common.errors import LoadError

if TYPE_CHECKING:
    from ...common.settings import Settings
    from ..engines.core.loaded import LoadedModel
    from ..engines.images.loaded import LoadedMultimodalModel

Progress = Callable[[str], None]
"""Takes one line about what is being done."""


class Loader(Protocol):
    """What a kind's module has. Importing the module itself is cheap; the libraries are imported when asked for."""

    LIBRARY: str
    """What is imported, for people."""

    def import_libraries(self, *, multimodal: bool, on_cpu: bool) -> None:
        """Import all that `load` takes.

        Args:
            multimodal: whether the model takes images.
            on_cpu: whether there is no GPU, so that the CPU backend has to be installed around the imports.
        """

    def load(self, settings: Settings, *, on_cpu: bool, progress: Progress) -> LoadedModel | LoadedMultimodalModel:
        """Load this rank's part of the model. Collective: all ranks of the world call it.

        Sets up Megatron's process groups on top of torch.distributed, which has to be initialized.

        Args:
            settings: the deployment; `settings.multimodal` says which of the two types is returned.
            on_cpu: whether the CPU backend is installed.
            progress: takes a line for each stage.

        Raises:
            LoadError: the checkpoint lacks something, cannot be read, is not served, or cannot be split like that.
        """


def loader(kind: str) -> Loader:
    """Return the loader of a kind of checkpoint.

    Raises:
        LoadError: there is no such kind.
    """
    if kind not in checkpoint_kinds.NAMES:
        raise LoadError(f"CHECKPOINT_KIND is {kind!r}; it has to be one of {', '.join(checkpoint_kinds.NAMES)}.")
    return cast(Loader, importlib.import_module(f".{kind}", __package__))
