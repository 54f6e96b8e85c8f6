"""How long whole processes of `trgen` take."""

import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from bench.deployment import TRGEN, build_command
from bench.report import console, load_average, table, write

TARGETS = {"trgen --help": 0.5, "trgen build": 1.5}
"""Seconds; shown beside what was measured."""


def run(checkpoint: Path, rank_python: Path, trials: int | None) -> None:
    """Measure, print and write."""
    load_before = load_average()
    seconds: dict[str, list[float]] = {name: [] for name in TARGETS}
    with tempfile.TemporaryDirectory() as folder:
        for trial in range(-1, trials or 10):  # the first fills the page cache and does not count
            commands: dict[str, list[str | Path]] = {
                "trgen --help": [TRGEN, "--help"],
                "trgen build": build_command(checkpoint, Path(folder) / str(trial), rank_python),
            }
            for name, command in commands.items():
                started = time.perf_counter()
                subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
                if trial >= 0:
                    seconds[name].append(time.perf_counter() - started)
    console.rule("command line")
    table(
        "Whole processes",
        ["command", "median s", "slowest s", "target s"],
        [
            [name, f"{statistics.median(values):.3f}", f"{max(values):.3f}", f"{TARGETS[name]}"]
            for name, values in seconds.items()
        ],
    )
    results = {
        name: {"median_seconds": statistics.median(values), "seconds": values, "target_seconds": TARGETS[name]}
        for name, values in seconds.items()
    }
    write("cli", results, load_before=load_before)
