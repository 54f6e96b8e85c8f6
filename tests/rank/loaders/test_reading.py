"""A distributed checkpoint that several threads read is what torch reads, whole and in part."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter

from trition_repo_gen.runtime.rank.loaders import reading

Saved = dict[str, Any]


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Tensors of all kinds, which are saved in `tmp_path`."""
    tensors = {
        "matrix": torch.randn(37, 11),
        "bfloat16": torch.randn(5, 4, 3).to(torch.bfloat16),
        "integers": torch.arange(9),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
        "part of another": torch.randn(20, 6)[3:7],
        "transposed": torch.randn(6, 8).t(),
        "no tensor": {"step": 7},
    }
    dcp.save(tensors, storage_writer=FileSystemWriter(tmp_path), no_dist=True)
    return tensors


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have most tensors read in several pieces."""
    monkeypatch.setattr(reading, "_PIECE_BYTES", 64)


def test_threads_read_what_torch_does_and_leave_to_it_what_is_not_plain(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_torch: set[str] = set()
    original = FileSystemReader.read_data

    def noted(self: Any, plan: Any, planner: Any) -> Any:
        by_torch.update(item.storage_index.fqn for item in plan.items)
        return original(self, plan, planner)

    monkeypatch.setattr(FileSystemReader, "read_data", noted)
    read: Saved = {
        name: torch.full_like(value, 9) if isinstance(value, Tensor) else {"step": 0} for name, value in saved.items()
    }

    with reading.by_threads():
        dcp.load(read, storage_reader=FileSystemReader(tmp_path), no_dist=True)

    assert FileSystemReader.read_data is noted
    for name, value in saved.items():
        assert torch.equal(read[name], value) if isinstance(value, Tensor) else read[name] == value, name
    assert "transposed" in by_torch
    assert not {"matrix", "bfloat16", "integers", "scalar"} & by_torch


def test_threads_read_a_part_of_a_tensor(saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[Any] = []
    find = reading._find

    def noted(*arguments: Any) -> Any:
        places.append(find(*arguments))
        return places[-1]

    monkeypatch.setattr(reading, "_find", noted)
    with reading.by_threads():
        dcp.load({"matrix": torch.empty(37, 11)}, storage_reader=FileSystemReader(tmp_path), no_dist=True)
    part = torch.empty(20, 5)
    copier = reading._Copier()
    for piece, target in dataclasses.replace(places[0], begin=(9, 4), lengths=(20, 5)).pieces(part):
        copier.copy(piece, target)
    copier.close()
    assert torch.equal(part, saved["matrix"][9:29, 4:9])
