"""The folders of Megatron checkpoints: roots and iterations, with one file per rank or distributed."""

from pathlib import Path

TRACKER = "latest_checkpointed_iteration.txt"
RUN_CONFIG = "run_config.yaml"
DCP_METADATA = ".metadata"
"""The index of a distributed checkpoint."""


def is_iteration(path: Path) -> bool:
    """Whether a folder holds one iteration of a Megatron-Bridge checkpoint, whole or half-written."""
    if any((path / name).is_file() for name in (RUN_CONFIG, "train_state.pt", DCP_METADATA)):
        return True
    return path.name.startswith("iter_") and not is_legacy(path)


def is_legacy(path: Path) -> bool:
    """Whether a folder holds one file per rank, as Megatron-LM wrote before distributed checkpoints."""
    return any(path.glob("mp_rank_*"))


def iterations(root: Path) -> list[Path]:
    """Return the `iter_*` folders below a checkpoint's root, oldest first."""
    found = (path for path in root.glob("iter_*") if path.name[5:].isdigit() and path.is_dir())
    return sorted(found, key=lambda path: int(path.name[5:]))
