"""Check that a distributed checkpoint is complete: its index and every `*.distcp` shard that the index names."""

import re
from pathlib import Path

from trition_repo_gen.checkpoints.megatron_folders import DCP_METADATA

# The index is a pickle, which is not loaded here: the shards' names stand in it as plain bytes.
_SHARD_NAME = re.compile(rb"__\d+_\d+\.distcp")


class IncompleteError(Exception):
    """A part is missing. The message says which, as a part of a sentence."""


def size(folder: Path) -> int:
    """Return the size of all shards in bytes.

    Raises:
        IncompleteError: the index or a shard is missing or empty.
    """
    index = folder / DCP_METADATA
    require(index)
    sizes = {file.name: file.stat().st_size for file in folder.glob("*.distcp")}
    named = {name.decode() for name in _SHARD_NAME.findall(index.read_bytes())}
    if missing := sorted(named - sizes.keys()):
        count = f"{len(missing)} of {len(named)} shards are" if len(missing) > 1 else "one shard is"
        raise IncompleteError(f"{count} missing ({missing[0]})")
    if not sizes:
        raise IncompleteError("it has no *.distcp shard")
    if empty := sorted(name for name, size in sizes.items() if size == 0):
        raise IncompleteError(f"the shard {empty[0]} is empty")
    return sum(sizes.values())


def require(file: Path) -> None:
    """Require a file that is not empty.

    Raises:
        IncompleteError: it is missing or empty.
    """
    if not file.is_file() or file.stat().st_size == 0:
        raise IncompleteError(f"{file.name} is {'empty' if file.is_file() else 'missing'}")
