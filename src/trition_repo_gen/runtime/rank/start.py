"""Load the model and start its engine. Everything heavy is imported only once the settings are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ..common.settings import Settings
from .loaders import registry
from .loaders.registry import Progress

if TYPE_CHECKING:
    from .engines.api import Engine
    from .engines.core.loaded import LoadedModel
    from .engines.images.loaded import LoadedMultimodalModel
    from .engines.text import TextCodec


@dataclass(frozen=True)
class Started:
    """An engine that is ready to take sequences, and what the serving loop needs beside it."""

    engine: Engine
    codec: TextCodec
    eos_ids: list[int]


def import_libraries(settings: Settings, *, on_cpu: bool) -> None:
    """Import everything that loading and running such a checkpoint takes; without a GPU, behind the CPU backend."""
    registry.loader(settings.checkpoint_kind).import_libraries(multimodal=settings.multimodal, on_cpu=on_cpu)
    if settings.multimodal:
        from .engines.images import engine as _images  # noqa: F401
    else:
        from .engines.core import engine as _core  # noqa: F401


def start(settings: Settings, *, on_cpu: bool, progress: Progress) -> Started:
    """Load this rank's part of the model and make its engine. Collective: all ranks of the world call it."""
    loader = registry.loader(settings.checkpoint_kind)
    progress(f"importing {loader.LIBRARY}")
    import_libraries(settings, on_cpu=on_cpu)
    if on_cpu and settings.enable_cuda_graphs:
        progress("ENABLE_CUDA_GRAPHS has no effect without a GPU")
    loaded = loader.load(settings, on_cpu=on_cpu, progress=progress)
    progress("starting the engine")
    if settings.multimodal:
        return _start_multimodal(cast("LoadedMultimodalModel", loaded), settings)
    return _start_text(cast("LoadedModel", loaded), settings, progress)


def _start_text(loaded: LoadedModel, settings: Settings, progress: Progress) -> Started:
    from .engines.core.engine import RankEngine
    from .engines.core.graph_progress import GraphProgress
    from .engines.text import TextCodec

    codec = TextCodec(loaded.tokenizer, allow_control_tokens_in_chat=settings.allow_control_tokens_in_chat)
    with GraphProgress(progress):
        return Started(RankEngine(loaded, settings, codec), codec, loaded.eos_ids)


def _start_multimodal(loaded: LoadedMultimodalModel, settings: Settings) -> Started:
    from .engines.images.codec import MultimodalCodec
    from .engines.images.engine import MultimodalEngine
    from .engines.images.fetch import Fetcher

    codec = MultimodalCodec(
        loaded.processor,
        settings.max_image_pixels,
        Fetcher(settings),
        allow_control_tokens_in_chat=settings.allow_control_tokens_in_chat,
    )
    return Started(MultimodalEngine(loaded, settings, codec), codec, loaded.eos_ids)
