"""Loader of Megatron-Bridge checkpoints: what is imported in which order, and which module loads which model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...common.settings import Settings
from .registry import Progress

if TYPE_CHECKING:
    from ..engines.core.loaded import LoadedModel
    from ..engines.images.loaded import LoadedMultimodalModel

LIBRARY = "Megatron"


def import_libraries(*, multimodal: bool, on_cpu: bool) -> None:
    """See `Loader.import_libraries`."""
    if on_cpu:
        from .. import cpu

        cpu.install()
    from . import bridge_text  # noqa: F401

    if on_cpu:
        cpu.after_import()
    if multimodal:
        from . import bridge_multimodal  # noqa: F401


def load(settings: Settings, *, on_cpu: bool, progress: Progress) -> LoadedModel | LoadedMultimodalModel:
    """See `Loader.load`."""
    if settings.multimodal:
        from . import bridge_multimodal

        return bridge_multimodal.load(settings, on_cpu=on_cpu, progress=progress)
    from . import bridge_text

    return bridge_text.load(settings, on_cpu=on_cpu, progress=progress)
