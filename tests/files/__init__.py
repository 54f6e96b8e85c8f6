"""A test's input is a dict of files. The modules here make such dicts for checkpoints and environments."""

from collections.abc import Mapping
from pathlib import Path

FileTree = dict[str, str | bytes]
"""Path within a folder → content."""


def build_file_tree(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files, and the folders that they are in; return the folder of all."""
    root.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return root
