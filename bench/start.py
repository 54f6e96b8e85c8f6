"""How long a server takes until it can answer, over what loading the same checkpoint costs anyway."""

import json
import os
import signal
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from bench.deployment import TRGEN, Repository, build, describe
from bench.engine import in_process
from bench.report import console, load_average, table, write
from trition_repo_gen.server import free_ports

TARGET = 1.3
_BARE = Path(__file__).with_name("bare_load.py")


def run(checkpoint: Path, rank_python: Path, trials: int | None) -> None:
    """Measure, print and write."""
    trials = trials or 3
    load_before = load_average()
    console.rule("start")
    seconds: dict[str, list[float]] = {"server": [], "bare": [], "engine": []}
    with tempfile.TemporaryDirectory() as folder:
        repository = build(checkpoint, Path(folder), rank_python)
        for trial in range(-1, trials):  # the first fills the page cache and does not count
            now = {
                "bare": bare_load(repository, rank_python)["total"],
                "engine": _engine(repository, rank_python),
                "server": _server(repository),
            }
            console.print(", ".join(f"{side} {value:.1f} s" for side, value in now.items()), style="dim")
            if trial >= 0:
                for side, value in now.items():
                    seconds[side].append(value)
        deployment = describe(checkpoint, repository.parameters())
    ratios = {
        side: statistics.median(a / b for a, b in zip(seconds["server"], seconds[side], strict=True))
        for side in ("bare", "engine")
    }
    table(
        f"From the start of the process, medians of {trials} alternating runs",
        ["what", "seconds", "server over it", "target"],
        [
            ["trgen serve, until it says that it is ready", f"{statistics.median(seconds['server']):.1f}", "", ""],
            ["bare import and load", f"{statistics.median(seconds['bare']):.1f}", f"{ratios['bare']:.2f}", f"{TARGET}"],
            [
                "import, load and engine in-process",
                f"{statistics.median(seconds['engine']):.1f}",
                f"{ratios['engine']:.2f}",
                "",
            ],
        ],
    )
    results = {"deployment": deployment, "seconds": seconds, "ratios": ratios, "target_ratio": TARGET}
    write("start", results, rank_python=rank_python, load_before=load_before)


def _server(repository: Repository) -> float:
    """`trgen serve`, until it prints that the model is ready."""
    http, grpc, metrics = map(str, free_ports(3))
    command: list[str | Path] = [
        *(TRGEN, "serve", "--model-repository", repository.folder, "--triton-http-address", "127.0.0.1"),
        *("--triton-port", http, "--grpc-port", grpc, "--metrics-port", metrics),
    ]
    with tempfile.TemporaryFile("w+") as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("ready:"):
                    return time.perf_counter() - started
            log.seek(0)
            raise RuntimeError(f"trgen serve ended:\n{log.read()[-4000:]}")
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()


def _engine(repository: Repository, rank_python: Path) -> float:
    started = time.perf_counter()
    with in_process(repository, rank_python):
        return time.perf_counter() - started


def bare_load(repository: Repository, rank_python: Path) -> dict[str, float]:
    """Run a script that imports Megatron-Bridge and loads a checkpoint with it, on one GPU if there is one.

    Returns:
        seconds of the `import`, of the `load`, and of both with the start of the process: `total`.
    """
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    started = time.perf_counter()
    process = subprocess.Popen(
        [rank_python, _BARE, repository.version_folder, repository.parameters()["CHECKPOINT"]],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    output, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{_BARE.name} failed:\n{errors[-4000:]}")
    total = time.perf_counter() - started
    parts: dict[str, float] = json.loads(output.splitlines()[-1])
    return parts | {"total": total}
