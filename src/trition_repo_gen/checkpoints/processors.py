"""Where a multimodal checkpoint's processor lies: its tokenizer, its chat template, and how it cuts pictures up."""

import re
from collections.abc import Sequence
from pathlib import Path

MARKER = "preprocessor_config.json"
"""The file that a processor's folder has and a tokenizer's has not."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_processor(folder: Path) -> bool:
    """Whether a folder holds a processor."""
    return (folder / MARKER).is_file()


def is_hub_name(name: str) -> bool:
    """Whether a name is a model's on a hub: `organisation/model`."""
    return bool(_HUB_NAME.fullmatch(name))


def held(folders: Sequence[Path]) -> Path | None:
    """Return the first of the folders that holds a processor."""
    return next(filter(is_processor, folders), None)
