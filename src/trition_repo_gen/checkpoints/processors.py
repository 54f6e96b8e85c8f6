"""Find a multimodal checkpoint's processor: its tokenizer, its chat template and its image preprocessing."""

import re
from collections.abc import Sequence
from pathlib import Path

from trition_repo_gen.runtime.rank.loaders.processors import MARKER, is_processor

__all__ = ["MARKER", "held", "is_hub_name", "is_processor"]

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_name(name: str) -> bool:
    """Whether a name has the form of a model's name on a hub, `organisation/model`."""
    return bool(_HUB_NAME.fullmatch(name))


def held(folders: Sequence[Path]) -> Path | None:
    """Return the first of the folders that holds a processor."""
    return next(filter(is_processor, folders), None)
