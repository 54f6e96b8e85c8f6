"""Python environments that hold packages by name only: enough to be looked at, and nothing to import."""

import sys
from collections.abc import Mapping
from pathlib import Path

from tests.files import FileTree, build_file_tree

MEGATRON = {"megatron-bridge": "0.6.2", "megatron-core": "0.19.2", "torch": "2.11.0"}
NEMO = {"nemo-toolkit": "2.7.3", "megatron-core": "0.16.1", "torch": "2.11.0", "transformers": "4.57.6", "pillow": "12"}


def environment(folder: Path, packages: Mapping[str, str]) -> FileTree:
    """Return the files of a Python that runs, and finds these packages' metadata besides its own."""
    infos = {
        f"packages/{name.replace('-', '_')}-{version}.dist-info/METADATA": (
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        for name, version in packages.items()
    }
    return {**infos, "bin/python": f'#!/bin/sh\nPYTHONPATH={folder}/packages exec {sys.executable} "$@"\n'}


def make_environment(folder: Path, packages: Mapping[str, str]) -> Path:
    """Write `environment` into a folder and return its Python."""
    python = build_file_tree(folder, environment(folder, packages)) / "bin/python"
    python.chmod(0o755)
    return python
