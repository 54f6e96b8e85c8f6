"""Python environments that hold packages by name only: enough to be looked at, and nothing to import."""

import sys
from pathlib import Path

MEGATRON = {"megatron-bridge": "0.6.2", "megatron-core": "0.19.2", "torch": "2.11.0"}
NEMO = {"nemo-toolkit": "2.7.3", "megatron-core": "0.16.1", "torch": "2.11.0", "transformers": "4.57.6", "pillow": "12"}


def make_environment(folder: Path, packages: dict[str, str]) -> Path:
    """Return a Python that runs, and finds these packages' metadata besides its own."""
    for name, version in packages.items():
        info = folder / "packages" / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH={folder}/packages exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python
