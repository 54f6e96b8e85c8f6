"""Fixtures that the unit tests of several rooms share."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.files import build_file_tree, megatron_bridge

MakeCheckpoint = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def _no_gpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test may depend on the GPUs of the machine that runs it."""
    folder = tmp_path_factory.mktemp("no gpu")
    (folder / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (folder / "nvidia-smi").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        yield


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> MakeCheckpoint:
    """Return a function that writes `megatron_bridge.checkpoint` into a folder and returns that."""

    def make(name: str = "checkpoint", iteration: int = 0, **described: Any) -> Path:
        return build_file_tree(tmp_path / name, megatron_bridge.checkpoint(iteration, **described))

    return make
