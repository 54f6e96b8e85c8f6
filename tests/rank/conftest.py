"""Tests that run where ranks run: in `.envs/megatron`, and those of `nemo/` in `.envs/nemo`.

    .envs/megatron/bin/python -m pytest tests/rank
    .envs/nemo/bin/python -m pytest tests/rank/nemo

Tests of one file share a process with those of others. So the CPU backend is installed here, before a test module
imports megatron, as a rank installs it. To run on a GPU, name it: `CUDA_VISIBLE_DEVICES=0`.
"""

import importlib
import importlib.util
import os
from pathlib import Path

import pytest

HAS_TORCH, HAS_NEMO = (importlib.util.find_spec(name) is not None for name in ("torch", "nemo"))
_FOLDERS = {path.name for path in Path(__file__).parent.iterdir() if path.is_dir()}
collect_ignore = sorted(_FOLDERS - {"nemo"} if HAS_NEMO else {"nemo"} if HAS_TORCH else _FOLDERS)

if HAS_TORCH:
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

    import torch

    from trition_repo_gen.runtime.rank import cpu

    torch.set_num_threads(1)  # pytest-xdist uses the other cores
    if cpu.needed():
        os.environ["TRITON_INTERPRET"] = "1"  # run Triton's kernels without a GPU
        if HAS_NEMO:
            cpu.install_facade()
        else:
            cpu.install()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files: those that need checkpoints, which take both cores to prepare."""
    items.sort(key=lambda item: "checkpoints" not in getattr(item, "fixturenames", ()))


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Give every test the same random numbers, whichever tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def bridge() -> None:
    """Import Megatron-Bridge, and finish the CPU backend, as a rank does before it loads a checkpoint."""
    importlib.import_module("megatron.bridge")
    if cpu.needed():
        cpu.after_import()
