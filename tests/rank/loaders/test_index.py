"""The index of a distributed checkpoint is a pickle: one that could run something is refused before it is read."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from trition_repo_gen.runtime.common.errors import LoadError
from trition_repo_gen.runtime.rank.loaders.index import require_harmless


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any):
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint that torch saved."""
    state = {"weight": torch.ones(4, 3, dtype=torch.bfloat16), "layers": {"bias": torch.zeros(2)}, "step": 3}
    dcp.save(state, checkpoint_id=tmp_path / "real", no_dist=True)
    return tmp_path / "real"


def refusal(folder: Path, index: bytes) -> str:
    """Return what is said about a checkpoint with this index."""
    (folder / ".metadata").write_bytes(index)
    with pytest.raises(LoadError) as error:
        require_harmless(folder)
    return str(error.value).removeprefix(f"{folder}/")


def test_an_index_that_torch_wrote_is_read(checkpoint: Path) -> None:
    require_harmless(checkpoint)


def test_an_index_that_runs_a_command_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    sentence = refusal(tmp_path, pickle.dumps(Call(os.system, f"touch {touched}")))
    assert sentence.startswith(".metadata names posix.system, which no checkpoint's index holds")
    assert not touched.exists()


def test_an_index_that_gets_at_attributes_is_refused(tmp_path: Path) -> None:
    sentence = refusal(tmp_path, pickle.dumps(Call(getattr, torch.Size, "__init__")))
    assert sentence.startswith(".metadata names builtins.getattr, which")


def test_an_index_that_gets_at_another_modules_function_is_refused(tmp_path: Path) -> None:
    sentence = refusal(tmp_path, b"ctorch.distributed.checkpoint.metadata\nos.system\n(Vtrue\ntR.")
    assert sentence.startswith(".metadata names torch.distributed.checkpoint.metadata.os.system, which")


def test_a_damaged_index_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    sentence = refusal(tmp_path, (checkpoint / ".metadata").read_bytes()[:100])
    assert sentence.startswith(".metadata is damaged (")
