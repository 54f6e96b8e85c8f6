"""The type that a loader returns for a multimodal model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .model import MultimodalModel


@dataclass(frozen=True, kw_only=True)
class LoadedMultimodalModel:
    """A loaded multimodal model and its processor."""

    model: MultimodalModel
    """This rank's part, in eval mode, on this rank's device."""
    processor: Any
    """A processor of `transformers`."""
    eos_ids: list[int]
    """Tokens that end an answer, the tokenizer's own first."""
    vocab_size: int
    """Tokens of the vocabulary before padding."""
