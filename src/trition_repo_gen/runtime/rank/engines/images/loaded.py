"""What the multimodal engine needs of a loaded checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .model import MultimodalModel


@dataclass(frozen=True, kw_only=True)
class LoadedMultimodalModel:
    """What a loader returns of a multimodal model."""

    model: MultimodalModel
    """This rank's part, in eval mode, on this rank's device."""
    processor: Any
    """A processor of `transformers`."""
    eos_ids: list[int]
    """Tokens that end an answer, the tokenizer's own first."""
    vocab_size: int
    """Tokens of the vocabulary before padding."""
