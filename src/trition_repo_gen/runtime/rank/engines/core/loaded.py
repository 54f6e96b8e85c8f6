"""The type that a loader returns for a language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.transformer.transformer_config import MLATransformerConfig

from ..memory import kv_block_tokens


@dataclass(frozen=True)
class LoadedModel:
    """A loaded language model and its tokenizer."""

    model: torch.nn.Module
    """This rank's part, in eval mode, on this rank's device; `model.config` is its `TransformerConfig`."""
    tokenizer: Any
    """A fast tokenizer of `transformers`."""
    eos_ids: list[int]
    """Tokens that end an answer, the tokenizer's own first; empty where the checkpoint names none."""
    vocab_size: int
    """Tokens of the vocabulary before padding. The tokenizer may have fewer."""


def kv_block_size(model_config: Any) -> int:
    """Return the tokens of a block of the KV cache, of a model with this `TransformerConfig` on this machine."""
    latents = isinstance(model_config, MLATransformerConfig) or getattr(model_config, "multi_latent_attention", False)
    return kv_block_tokens(multimodal=False, latents=latents, on_gpu=torch.cuda.is_available())
