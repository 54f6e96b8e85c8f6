"""What Megatron Core's engine needs of a loaded checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.transformer.transformer_config import MLATransformerConfig


@dataclass(frozen=True)
class LoadedModel:
    """What serving needs of a checkpoint."""

    model: torch.nn.Module
    """This rank's part, in eval mode, on this rank's device; `model.config` is its `TransformerConfig`."""
    tokenizer: Any
    """A fast tokenizer of `transformers`."""
    eos_ids: list[int]
    """Tokens that end an answer, the tokenizer's own first; empty where the checkpoint knows none."""
    vocab_size: int
    """Rows of the vocabulary before padding. The tokenizer may know fewer."""


def kv_block_size(model_config: Any) -> int:
    """Return the tokens per block of the KV cache.

    FlashMLA reads blocks of 64 (megatron-core's dynamic_context.py:297 asserts it); FlashAttention wants 256. On a CPU
    small blocks waste less of a small cache.
    """
    latents = isinstance(model_config, MLATransformerConfig) or getattr(model_config, "multi_latent_attention", False)
    return 64 if latents or not torch.cuda.is_available() else 256
