"""A Megatron-Bridge checkpoint of a model that takes images becomes this rank's part of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...common.errors import LoadError
from ...common.settings import Settings
from ..engines.images.engine import LoadedMultimodalModel
from ..engines.images.families import BridgeQwen3VL, BridgeQwen25VL, MultimodalModel
from . import megatron_bridge, processor, tokenizer

_FAMILIES: dict[str, type[MultimodalModel]] = {"Qwen25VLModel": BridgeQwen25VL, "Qwen3VLModel": BridgeQwen3VL}
"""Megatron-Bridge's class of the whole model → how it is run."""


def load(settings: Settings, *, device_is_cpu: bool, progress: Callable[[str], None]) -> LoadedMultimodalModel:
    """Load this rank's part of the model, and its processor; see `megatron_bridge.build`.

    Raises:
        LoadError: as `megatron_bridge.build`, there is no processor, or the model is of a family that is not served.
    """
    checkpoint = Path(settings.checkpoint)
    folders = [checkpoint / "tokenizer", *tokenizer.saved_model(checkpoint)]
    reads = processor.load(settings.processor, folders)
    model, config = megatron_bridge.build(settings, device_is_cpu=device_is_cpu, progress=progress)
    model = _unwrapped(model)
    family = _FAMILIES.get(type(model).__name__)
    if family is None:
        known = ", ".join(_FAMILIES)
        raise LoadError(f"{checkpoint} holds a {type(model).__name__}; of the models with images {known} are served.")
    return LoadedMultimodalModel(
        model=family(model, config.image_token_id),
        processor=reads,
        eos_ids=processor.eos_ids(reads, settings.processor, folders),
        vocab_size=config.vocab_size,
    )


def _unwrapped(model: Any) -> Any:
    """Return the model without what converts its number formats: the engine speaks to its parts."""
    while hasattr(model, "module"):
        model = model.module
    return model
