"""Which code loads and runs which kind of checkpoint. Everything heavy is imported only once the settings are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..settings import Settings

if TYPE_CHECKING:
    from ..multimodal.engine import LoadedPictureModel
    from .engine_api import Engine
    from .text import TextCodec

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Started:
    """An engine that can take rows, and what makes text into tokens and back."""

    engine: Engine
    codec: TextCodec
    eos_ids: list[int]


def start(settings: Settings, *, on_cpu: bool, progress: Progress) -> Started:
    """Load this rank's part of the model and make its engine. Collective: all ranks of the world call it."""
    progress("importing NeMo" if settings.checkpoint_kind == "nemo2" else "importing Megatron")
    if on_cpu and settings.enable_cuda_graphs:
        progress("ENABLE_CUDA_GRAPHS has no effect without a GPU")
    if settings.checkpoint_kind == "nemo2":
        return _start_nemo2(settings, on_cpu, progress)
    return _start_megatron_bridge(settings, on_cpu, progress)


def _start_megatron_bridge(settings: Settings, on_cpu: bool, progress: Progress) -> Started:
    if on_cpu:
        from .. import cpu

        cpu.install()
    from ..loaders import megatron_bridge

    if on_cpu:
        cpu.after_import()
    if settings.multimodal:
        from ..loaders import bridge_pictures

        return _with_pictures(
            bridge_pictures.load(settings, device_is_cpu=on_cpu, progress=progress), settings, progress
        )
    from .engine import RankEngine
    from .text import TextCodec

    loaded = megatron_bridge.load(settings, device_is_cpu=on_cpu, progress=progress)
    progress("starting the engine")
    codec = TextCodec(loaded.tokenizer)
    return Started(RankEngine(loaded, settings, codec), codec, loaded.eos_ids)


def _start_nemo2(settings: Settings, on_cpu: bool, progress: Progress) -> Started:
    if on_cpu:
        from .. import cpu

        cpu.install_facade()
    from ..loaders import nemo2

    return _with_pictures(nemo2.load(settings, device_is_cpu=on_cpu, progress=progress), settings, progress)


def _with_pictures(loaded: LoadedPictureModel, settings: Settings, progress: Progress) -> Started:
    from ..multimodal.codec import PictureCodec
    from ..multimodal.engine import PictureEngine
    from ..multimodal.fetch import Fetcher

    progress("starting the engine")
    fetch = Fetcher(settings)
    codec = PictureCodec(loaded.processor, settings.max_image_pixels, fetch)
    return Started(PictureEngine(loaded, settings, codec), codec, loaded.eos_ids)
