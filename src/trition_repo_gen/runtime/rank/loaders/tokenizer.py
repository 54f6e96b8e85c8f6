"""Find and load the tokenizer of a checkpoint.

run_config.yaml stores absolute paths of the machine that saved the checkpoint. They come last here, and may be gone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...common.errors import LoadError


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer and the tokens that end an answer."""

    tokenizer: Any
    """A fast tokenizer of `transformers`."""
    eos_ids: list[int]
    """The tokenizer's own first, then those of the model's generation settings."""


def load(checkpoint: Path, override: str) -> LoadedTokenizer:
    """Load the tokenizer. Code that the tokenizer's folder holds is never run.

    Args:
        checkpoint: the checkpoint's `iter_*` folder.
        override: a folder or a hub's name to use instead of the checkpoint's tokenizer; empty for none.

    Raises:
        LoadError: there is none, or `transformers` has no fast tokenizer for it.
    """
    from transformers import AutoTokenizer

    source = find(checkpoint, override)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever a broken file makes its parsers raise
        raise LoadError(
            f"transformers cannot load the tokenizer {source!r} ({error}); "
            "set the parameter TOKENIZER to a Hugging Face tokenizer's folder or name."
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise LoadError(f"{source!r} is no fast tokenizer; save it again with a tokenizer.json, or set TOKENIZER.")
    return LoadedTokenizer(tokenizer, eos_ids(tokenizer, [Path(source), *saved_model(checkpoint)]))


def find(checkpoint: Path, override: str) -> str:
    """Return the folder or the hub's name to load from: the setting, the checkpoint's folder, what it was saved with.

    Raises:
        LoadError: the checkpoint has no tokenizer and the path that it was saved with is gone.
    """
    if override:
        return override
    folder = checkpoint / "tokenizer"
    if folder.is_dir() and any(folder.iterdir()):
        return str(folder)
    saved = str((_run_config(checkpoint).get("tokenizer") or {}).get("tokenizer_model") or "")
    if saved and (Path(saved).exists() or is_hub_name(saved)):
        return saved
    what = f"the one it was saved with, {saved}, is gone" if saved else "names none"
    raise LoadError(f"{checkpoint} holds no tokenizer and {what}; set the parameter TOKENIZER to a folder or a name.")


def is_hub_name(text: str) -> bool:
    """Whether a text can be the name of a tokenizer on a hub."""
    return not text.startswith((".", "/", "~")) and text.count("/") <= 1


def _run_config(checkpoint: Path) -> dict[str, Any]:
    try:
        text = (checkpoint / "run_config.yaml").read_text(encoding="utf-8")
    except OSError:
        return {}
    return yaml.safe_load(text) or {}


def saved_model(checkpoint: Path) -> list[Path]:
    """Return the folder of the Hugging Face model that the checkpoint was converted from, if it is on this machine."""
    name = (_run_config(checkpoint).get("model") or {}).get("hf_model_id")
    return [Path(name)] if name and Path(name).is_dir() else []


def eos_ids(tokenizer: Any, folders: list[Path]) -> list[int]:
    """Return the tokens that end an answer; chat models often have one that ends a turn, in generation_config.json."""
    found = [tokenizer.eos_token_id]
    for folder in folders:
        for name in ("generation_config.json", "config.json"):
            try:
                value = json.loads((folder / name).read_bytes()).get("eos_token_id")
            except (OSError, ValueError):
                continue
            found += value if isinstance(value, list) else [value]
    return list(dict.fromkeys(token for token in found if isinstance(token, int)))
