"""Load this rank's part of a multimodal model from a Megatron-Bridge checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...common.errors import LoadError
from ...common.settings import Settings
from ..engines.images import families
from ..engines.images.loaded import LoadedMultimodalModel
from . import bridge_text, processors, tokenizer
from .registry import Progress


def load(settings: Settings, *, on_cpu: bool, progress: Progress) -> LoadedMultimodalModel:
    """Load this rank's part of the model, and its processor; see `bridge_text.build`.

    Raises:
        LoadError: as `bridge_text.build`, there is no processor, or the model is of a family that is not served.
    """
    checkpoint = Path(settings.checkpoint)
    folders = [checkpoint / "tokenizer", *tokenizer.saved_model(checkpoint)]
    processor = processors.load(settings.processor, folders)
    model, config = bridge_text.build(settings, on_cpu=on_cpu, progress=progress)
    model = _unwrapped(model)
    family = families.runner(families.MEGATRON_BRIDGE, type(model))
    if family is None:
        raise LoadError(
            f"{checkpoint} holds a {type(model).__name__}; of Megatron-Bridge's multimodal models "
            f"{families.served_names(families.MEGATRON_BRIDGE)} are served."
        )
    return LoadedMultimodalModel(
        model=family(model, config.image_token_id),
        processor=processor,
        eos_ids=processors.eos_ids(processor, settings.processor, folders),
        vocab_size=config.vocab_size,
    )


def _unwrapped(model: Any) -> Any:
    """Return the model without the modules that convert its dtype: the engine calls its parts."""
    while hasattr(model, "module"):
        model = model.module
    return model
