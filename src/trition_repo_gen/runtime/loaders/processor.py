"""The processor of a model that reads pictures: its tokenizer, its chat template, and how it cuts pictures up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import tokenizer
from .errors import LoadError

MARKERS = ("processor_config.json", "preprocessor_config.json")
"""Files of which a processor's folder has one and a tokenizer's has none; since transformers 5 it is the first."""


def load(setting: str, folders: Sequence[Path]) -> Any:
    """Load the processor. Code that a processor brings along is never run.

    Args:
        setting: a folder or a hub's name that comes before the others; empty for none.
        folders: where the checkpoint may hold it.

    Raises:
        LoadError: there is none, or `transformers` cannot load it.
    """
    from transformers import AutoProcessor

    holds = (folder for folder in folders if any((folder / marker).is_file() for marker in MARKERS))
    held = next(map(str, holds), None)
    source = setting or held
    if source is None:
        raise LoadError(
            f"The checkpoint holds no processor (none of {', '.join(map(str, folders))} has a {MARKERS[0]}); "
            "set the parameter PROCESSOR to a Hugging Face model's folder or name."
        )
    try:
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever a broken file makes its parsers raise
        raise LoadError(f"transformers cannot load the processor {source!r} ({error}); set PROCESSOR.") from error
    if not hasattr(processor, "image_token"):
        raise LoadError(f"{source!r} is a {type(processor).__name__}, which marks no pictures; set PROCESSOR.")
    return processor


def eos_ids(processor: Any, setting: str, folders: Sequence[Path]) -> list[int]:
    """Return the tokens that end an answer, the tokenizer's own first."""
    return tokenizer.eos_ids(processor.tokenizer, [Path(setting), *folders] if setting else list(folders))
