"""What every benchmark leaves: a table, and a JSON file that says where and with what it was measured."""

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("torch", "megatron-core", "megatron-bridge", "transformer-engine", "transformers", "pyzmq")
_OWN_PACKAGES = ("trition-repo-gen", "tritonclient", "nvidia-pytriton", "numpy")
_VERSIONS = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""
console = Console(highlight=False)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is text, the others are numbers."""
    grid = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        grid.add_column(column, justify="right" if index else "left")
    for row in rows:
        grid.add_row(*row)
    console.print(grid)


def write(name: str, results: Any, *, rank_python: Path | None = None, load_before: float) -> None:
    """Write `bench/results/NAME.json`.

    Args:
        results: what was measured.
        rank_python: the ranks' interpreter, if any had a part.
        load_before: the machine's load average before the benchmark. Numbers from a busy machine say little.
    """
    document = {
        "command": f"python -m {_module()} {' '.join(_without_folders(sys.argv[1:]))}",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine() | {"load_before": round(load_before, 2)},
        "versions": {
            "python": platform.python_version(),
            **_versions(Path(sys.executable), _OWN_PACKAGES),
            **({} if rank_python is None else _versions(rank_python, _PACKAGES)),
        },
        "results": results,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    console.print(f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}\n", style="dim")


def machine() -> dict[str, Any]:
    """Return what the numbers depend on: cores, the processor's name, memory in GiB, GPUs."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": cpu,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": _gpus(),
    }


def load_average() -> float:
    """Return how many processes wanted a core over the last minute."""
    return os.getloadavg()[0]


def _gpus() -> list[str]:
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return answer.stdout.splitlines()


def _versions(python: Path, names: Sequence[str]) -> dict[str, str]:
    answer = subprocess.run([python, "-c", _VERSIONS, *names], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(answer.stdout)
    return found


def _module() -> str:
    """Return the package whose `__main__` runs."""
    return str(sys.modules["__main__"].__package__ or "bench")


def _without_folders(words: Sequence[str]) -> list[str]:
    """A machine's folders are nobody's business."""
    return [f"…/{Path(word).name}" if Path(word).is_absolute() else word for word in words]
