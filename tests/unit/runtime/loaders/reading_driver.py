"""What test_reading.py runs in the ranks' environment: a distributed checkpoint, read with and without threads.

Usage: python reading_driver.py PACKAGE_FOLDER FOLDER; prints one JSON document.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter


def main() -> None:
    """Save tensors of all kinds; read them again, whole and in part."""
    from runtime.rank.loaders import reading

    torch.manual_seed(0)
    saved: dict[str, Any] = {
        "matrix": torch.randn(37, 11),
        "bfloat16": torch.randn(5, 4, 3).to(torch.bfloat16),
        "integers": torch.arange(9),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
        "part of another": torch.randn(20, 6)[3:7],
        "transposed": torch.randn(6, 8).t(),
        "no tensor": {"step": 7},
    }
    folder = Path(sys.argv[2])
    dcp.save(saved, storage_writer=FileSystemWriter(folder), no_dist=True)

    reading._PIECE_BYTES = 64  # so that most tensors are several pieces
    by_torch: list[str] = []
    original = FileSystemReader.read_data

    def noted(self: Any, plan: Any, planner: Any) -> Any:
        by_torch.extend(item.storage_index.fqn for item in plan.items)
        return original(self, plan, planner)

    FileSystemReader.read_data = noted  # type: ignore[method-assign]
    read = {
        name: torch.full_like(value, 9) if isinstance(value, torch.Tensor) else {"step": 0}
        for name, value in saved.items()
    }
    with reading.by_threads():
        dcp.load(read, storage_reader=FileSystemReader(folder), no_dist=True)
    assert FileSystemReader.read_data is noted

    places: list[reading._Place] = []
    find = reading._find
    reading._find = lambda *arguments: places.append(place := find(*arguments)) or place  # type: ignore[func-returns-value]
    with reading.by_threads():
        dcp.load({"matrix": torch.empty(37, 11)}, storage_reader=FileSystemReader(folder), no_dist=True)
    part = torch.empty(20, 5)
    copier = reading._Copier()
    for piece, target in dataclasses.replace(places[0], begin=(9, 4), lengths=(20, 5)).pieces(part):
        copier.copy(piece, target)
    copier.close()

    print(
        json.dumps(
            {
                "same": [
                    name
                    for name, value in saved.items()
                    if (torch.equal(read[name], value) if isinstance(value, torch.Tensor) else read[name] == value)
                ],
                "all": list(saved),
                "by_torch": sorted(by_torch),
                "part": torch.equal(part, saved["matrix"][9:29, 4:9]),
            }
        )
    )


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    main()
