"""Finds out who wrote a model's folder, so that no build replaces or removes another model."""

import re
from pathlib import Path

from trition_repo_gen.errors import RepositoryError
from trition_repo_gen.repository.render import CONFIG, MARK

# Searched as text, not as protobuf: a config.pbtxt that was edited so that Triton cannot read it still tells.
_STREAM_OF = re.compile(r"""["']STREAM_OF["'][^"']*string_value\s*:\s*["']([^"']*)["']""")


def require_ours(folder: Path, version: int, config: str, *, force: bool) -> None:
    """Check that a build may write a model's folder.

    Args:
        folder: where it will be.
        version: the one that will be written.
        config: the config.pbtxt that will be written.
        force: whether another model may be replaced.

    Raises:
        RepositoryError: the folder has another content, and `force` is off or does not help.
        OSError: the folder cannot be read.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RepositoryError(f"{folder} is not a folder; remove it, or write another --model-name.")
    if force:
        return
    theirs = _config(folder)
    if theirs is None and not any(folder.iterdir()):
        return  # An empty folder may be used.
    if theirs is None or not _is_generated(theirs):
        raise RepositoryError(
            f"{folder} was not written by trgen; write --force to replace its config.pbtxt and version {version}, "
            "or another --model-name."
        )
    if (other := _stream_of(theirs)) != (model := _stream_of(config)):
        what = f"the streaming model of {other}" if other else "a model of its own"
        mine = f"the streaming model of {model}" if model else "a model of its own"
        raise RepositoryError(
            f"{folder} is {what}, and would become {mine}; write another --model-name, or --force to replace it."
        )


def is_model(folder: Path) -> bool:
    """Whether the folder holds a model, written by trgen or not."""
    return _config(folder) is not None


def is_streaming_model(folder: Path, model: str) -> bool:
    """Whether the folder holds a streaming model of `model` that trgen wrote."""
    config = _config(folder)
    return config is not None and _is_generated(config) and _stream_of(config) == model


def _config(folder: Path) -> str | None:
    path = folder / CONFIG
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def _is_generated(config: str) -> bool:
    return MARK in config.partition("\n")[0]


def _stream_of(config: str) -> str:
    """Return the model whose ranks the one with this config.pbtxt uses; empty for one that has ranks of its own."""
    found = _STREAM_OF.search(config)
    return found[1] if found else ""
