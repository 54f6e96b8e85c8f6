"""Reads a real index and hostile ones; run by test_index.py.

Usage: python index_driver.py PACKAGE_FOLDER OUT
"""

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp


class Runs:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any):
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


def main(out: Path) -> dict[str, Any]:
    from runtime.common.errors import LoadError
    from runtime.rank.loaders.index import require_harmless

    state = {"weight": torch.ones(4, 3, dtype=torch.bfloat16), "layers": {"bias": torch.zeros(2)}, "step": 3}
    dcp.save(state, checkpoint_id=out / "real", no_dist=True)
    require_harmless(out / "real")

    def refusal(name: str, data: bytes) -> str:
        folder = out / name
        folder.mkdir()
        (folder / ".metadata").write_bytes(data)
        try:
            require_harmless(folder)
        except LoadError as error:
            return str(error).removeprefix(f"{folder}/")
        return "read"

    import os

    touched = out / "touched"
    return {
        "system": refusal("system", pickle.dumps(Runs(os.system, f"touch {touched}"))),
        "getattr": refusal("getattr", pickle.dumps(Runs(getattr, torch.Size, "__init__"))),
        "dotted": refusal("dotted", b"ctorch.distributed.checkpoint.metadata\nos.system\n(Vtrue\ntR."),
        "damaged": refusal("damaged", (out / "real/.metadata").read_bytes()[:100]),
        "touched": touched.exists(),
    }


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    print(json.dumps(main(Path(sys.argv[2]))))
