"""What the REST service costs: tokens per second through it, over those of Triton's own HTTP endpoint."""

import contextlib
import itertools
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.deployment import MODEL, TRGEN, build, describe
from bench.load import over_http, over_rest
from bench.overhead import MAX_LENGTH, PROMPTS
from bench.report import console, load_average, table, write
from trition_repo_gen.server import free_ports, running_server

CLIENTS = (1, 8, 32)
ROUNDS = 4
"""Requests of each client, at the least; one client alone sends more, so that a run lasts a second."""
TARGET = 0.9


def run(checkpoint: Path, rank_python: Path, trials: int | None) -> None:
    """Measure, print and write."""
    trials = trials or 7
    load_before = load_average()
    console.rule("REST over Triton's HTTP")
    with tempfile.TemporaryDirectory() as folder:
        repository = build(checkpoint, Path(folder), rank_python)
        with serving(repository.folder) as (triton, rest):
            results = [compare(triton, rest, clients, trials) for clients in CLIENTS]
        deployment = describe(checkpoint, repository.parameters())
    table(
        f"tokens/s, {MAX_LENGTH} greedy tokens a request, medians of {trials} alternating runs",
        ["clients", "HTTP infer", "REST", "ratio", "REST, streamed", "ratio", "target"],
        [
            [
                str(result["clients"]),
                f"{result['http']:.0f}",
                *(f"{result[side]:.0f}" if part == "" else f"{result[part + side]:.3f}" for side, part in _COLUMNS),
                f"{TARGET}" if result["clients"] == max(CLIENTS) else "",
            ]
            for result in results
        ],
    )
    settings = {"max_length": MAX_LENGTH, "target_ratio": TARGET, "deployment": deployment}
    write("rest", settings | {"runs": results}, rank_python=rank_python, load_before=load_before)


_COLUMNS = (("rest", ""), ("rest", "ratio_"), ("streamed", ""), ("streamed", "ratio_"))


def compare(triton: str, rest: str, clients: int, trials: int) -> dict[str, Any]:
    """Run all sides in turn, and back again the next time, so that what else the machine does meets all of them.

    Args:
        triton: HOST:PORT of tritonserver's HTTP endpoint.
        rest: HOST:PORT of the REST service.
        clients: requests in flight.
        trials: runs of each side.
    """
    count = clients * ROUNDS if clients > 1 else 4 * ROUNDS
    prompts = list(itertools.islice(itertools.cycle(PROMPTS), count))
    sides = {
        "http": lambda: over_http(triton, MODEL, clients, prompts, MAX_LENGTH).rate,
        "rest": lambda: over_rest(rest, MODEL, clients, prompts, MAX_LENGTH).rate,
        "streamed": lambda: over_rest(rest, MODEL, clients, prompts, MAX_LENGTH, stream=True).rate,
    }
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for trial in range(-1, trials):  # the first warms up
        order = list(sides) if trial % 2 else list(reversed(sides))
        now = {side: sides[side]() for side in order}
        if trial < 0:
            continue
        console.print(f"{clients} clients: " + ", ".join(f"{k} {v:.0f}" for k, v in sorted(now.items())), style="dim")
        for side, rate in now.items():
            rates[side].append(rate)
    result: dict[str, Any] = {"clients": clients, "requests": count, "tokens_per_second": rates}
    for side in rates:
        result[side] = statistics.median(rates[side])
    for side in ("rest", "streamed"):
        result[f"ratio_{side}"] = statistics.median(a / b for a, b in zip(rates[side], rates["http"], strict=True))
    return result


@contextlib.contextmanager
def serving(repository: Path) -> Iterator[tuple[str, str]]:
    """Serve a repository; gives host:port of its HTTP endpoint and of a REST service."""
    http, grpc, metrics, port = free_ports(4)
    with running_server(repository, http_port=http, grpc_port=grpc, metrics_port=metrics, ready_within=1800) as server:
        assert server.http_url is not None
        command: list[str | Path] = [TRGEN, "rest", f"--triton={server.grpc_url}", f"--server-port={port}"]
        command += ["--server-address=127.0.0.1", "--max-requests-per-minute=0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as rest:
            try:
                assert rest.stdout is not None
                if not rest.stdout.readline().startswith("rest: "):
                    raise RuntimeError("the REST service did not start")
                yield server.http_url, f"127.0.0.1:{port}"
            finally:
                rest.terminate()
