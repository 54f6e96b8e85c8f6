"""Find and load the processor of a multimodal model: its tokenizer, its chat template and its image preprocessing.

Importing this module needs the standard library only: `trgen build` looks for processors with it as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...common.errors import LoadError
from . import tokenizer

MARKER = "preprocessor_config.json"
"""The file that a processor's folder has and a tokenizer's folder lacks."""
_NEWER_MARKER = "processor_config.json"
"""The same since transformers 5."""


def is_processor(folder: Path) -> bool:
    """Whether a folder holds a processor."""
    return (folder / MARKER).is_file() or (folder / _NEWER_MARKER).is_file()


def nemo2_folders(checkpoint: Path) -> list[Path]:
    """Return where a NeMo 2.0 checkpoint may hold its processor.

    NeMo copies the tokenizer's folder into the context; that folder may have held a whole processor.
    """
    context = checkpoint / "context"
    return [
        context / "processor",
        checkpoint / "processor",
        *sorted(path for path in context.glob("*") if path.is_dir()),
    ]


def load(setting: str, folders: Sequence[Path]) -> Any:
    """Load the processor. Code that its folder holds is never run.

    Args:
        setting: a folder or a hub's name to use instead of the checkpoint's processor; empty for none.
        folders: where the checkpoint may hold it.

    Raises:
        LoadError: there is none, or `transformers` cannot load it.
    """
    from transformers import AutoProcessor

    held = next(map(str, filter(is_processor, folders)), None)
    source = setting or held
    if source is None:
        raise LoadError(
            f"The checkpoint holds no processor (none of {', '.join(map(str, folders))} has a {MARKER}); "
            "set the parameter PROCESSOR to a Hugging Face model's folder or name."
        )
    try:
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever a broken file makes its parsers raise
        raise LoadError(f"transformers cannot load the processor {source!r} ({error}); set PROCESSOR.") from error
    if not hasattr(processor, "image_token"):
        raise LoadError(f"{source!r} is a {type(processor).__name__}, which marks no images; set PROCESSOR.")
    return processor


def eos_ids(processor: Any, setting: str, folders: Sequence[Path]) -> list[int]:
    """Return the tokens that end an answer, the tokenizer's own first."""
    return tokenizer.eos_ids(processor.tokenizer, [Path(setting), *folders] if setting else list(folders))
