"""What the fixtures of the tests with images give."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRAINED = "tiny_qwen_vl"
RANDOM_MODELS = ("qwen2vl", "qwen25vl", "qwen3vl")
NEMO_MODELS = ("qwen2vl", "qwen25vl")
BRIDGE_MODELS = ("qwen25vl", "qwen3vl")


@dataclass(frozen=True)
class Prepared:
    """What is made once, whichever process asks first."""

    nemo: dict[str, Path]
    """NeMo 2.0 checkpoints in float32."""
    bridge: dict[str, Path]
    """Megatron-Bridge checkpoints in float32."""
    answers: dict[str, list[dict[str, Any]]]
    """What Hugging Face's `generate` answers to CASES: greedy, float32."""


Build = Callable[..., None]
