"""The type of a kind of checkpoint: how it is recognised and read, and what its ranks need."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trition_repo_gen.checkpoints.checkpoint import Checkpoint
from trition_repo_gen.runtime.common.checkpoint_kinds import CheckpointKindName


@dataclass(frozen=True, kw_only=True)
class RanksEnvironment:
    """What the Python that loads a kind of checkpoint on the ranks needs."""

    packages: tuple[str, ...]
    """Distributions that have to be installed; the first one that is missing is named."""
    install: str
    """The command that installs it, for a sentence."""
    python_variable: str | None = None
    """Environment variable that names this Python; it comes before TRGEN_RANK_PYTHON."""
    below: tuple[str, int] | None = None
    """A package, and its first major version that cannot load such checkpoints any more."""


@dataclass(frozen=True)
class ReadOptions:
    """What the user asked for, so far as reading a checkpoint depends on it."""

    multimodal: bool = False
    """Whether the model has to take images, or text only."""
    needs_tokenizer: bool = True
    """False where the user names a tokenizer (for a multimodal model: a processor) that replaces the checkpoint's."""


@dataclass(frozen=True, kw_only=True)
class CheckpointKind:
    """A kind of checkpoint. Each has a module in this package, which defines it as `KIND`."""

    name: CheckpointKindName
    title: str
    """What people call it."""
    marks: tuple[str, ...]
    """Files and folders by which it is recognised, for a sentence."""
    folder: str
    """Which folder to write as the path, for a sentence: `the folder that Megatron-Bridge saved`."""
    find_root: Callable[[Path], Path | None]
    """Return the root of the checkpoint of this kind, whole or half-written, that a path is or is a part of, else None.
    """
    instead: Callable[[Path], str]
    """Return what to write to have the checkpoint at a root served, as the end of a sentence."""
    read: Callable[[Path, ReadOptions], Checkpoint]
    """Read the checkpoint at an absolute path for which `find_root` found a root.

    Raises:
        CheckpointError: it is half-written, damaged, or not served.
        OSError: a file cannot be read.
    """
    environment: RanksEnvironment
    multimodal_only: bool = False
    """Whether only multimodal models of this kind are served."""
