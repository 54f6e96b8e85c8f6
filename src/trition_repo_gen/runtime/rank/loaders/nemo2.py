"""Loader of NeMo 2.0 checkpoints, of which the multimodal ones are served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...common.settings import Settings
from .registry import Progress

if TYPE_CHECKING:
    from ..engines.images.loaded import LoadedMultimodalModel

LIBRARY = "NeMo"


def import_libraries(*, multimodal: bool, on_cpu: bool) -> None:
    """See `Loader.import_libraries`."""
    del multimodal  # all are
    if on_cpu:
        from .. import cpu

        cpu.install_facade()
    from . import nemo2_multimodal

    nemo2_multimodal.import_nemo()


def load(settings: Settings, *, on_cpu: bool, progress: Progress) -> LoadedMultimodalModel:
    """See `Loader.load`."""
    from . import nemo2_multimodal

    return nemo2_multimodal.load(settings, on_cpu=on_cpu, progress=progress)
