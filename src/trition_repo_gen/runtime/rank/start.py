"""Which code loads and runs which kind of checkpoint. Everything heavy is imported only once the settings are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..common.settings import Settings

if TYPE_CHECKING:
    from .engines.api import Engine
    from .engines.text import TextCodec

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Started:
    """An engine that can take sequences, and what makes text into tokens and back."""

    engine: Engine
    codec: TextCodec
    eos_ids: list[int]


def import_libraries(settings: Settings, *, on_cpu: bool) -> None:
    """Import what loading and running such a checkpoint takes, behind the CPU backend where there is no GPU."""
    if on_cpu:
        from . import cpu

        if settings.checkpoint_kind == "nemo2":
            cpu.install_facade()
        else:
            cpu.install()
    if settings.checkpoint_kind == "nemo2":
        from .loaders import nemo2

        nemo2.import_nemo()
        return
    from .loaders import megatron_bridge  # noqa: F401

    if on_cpu:
        cpu.after_import()
    if settings.multimodal:
        from .loaders import bridge_multimodal  # noqa: F401
    else:
        from .engines.core import engine  # noqa: F401


def start(settings: Settings, *, on_cpu: bool, progress: Progress) -> Started:
    """Load this rank's part of the model and make its engine. Collective: all ranks of the world call it."""
    progress("importing NeMo" if settings.checkpoint_kind == "nemo2" else "importing Megatron")
    import_libraries(settings, on_cpu=on_cpu)
    if on_cpu and settings.enable_cuda_graphs:
        progress("ENABLE_CUDA_GRAPHS has no effect without a GPU")
    if settings.multimodal:
        return _start_multimodal(settings, on_cpu, progress)
    from .engines.core.engine import RankEngine
    from .engines.core.graph_progress import GraphProgress
    from .engines.text import TextCodec
    from .loaders import megatron_bridge

    loaded = megatron_bridge.load(settings, device_is_cpu=on_cpu, progress=progress)
    progress("starting the engine")
    codec = TextCodec(loaded.tokenizer)
    with GraphProgress(progress):
        return Started(RankEngine(loaded, settings, codec), codec, loaded.eos_ids)


def _start_multimodal(settings: Settings, on_cpu: bool, progress: Progress) -> Started:
    if settings.checkpoint_kind == "nemo2":
        from .loaders.nemo2 import load
    else:
        from .loaders.bridge_multimodal import load
    from .engines.images.codec import MultimodalCodec
    from .engines.images.engine import MultimodalEngine
    from .engines.images.fetch import Fetcher

    loaded = load(settings, device_is_cpu=on_cpu, progress=progress)
    progress("starting the engine")
    codec = MultimodalCodec(loaded.processor, settings.max_image_pixels, Fetcher(settings))
    return Started(MultimodalEngine(loaded, settings, codec), codec, loaded.eos_ids)
