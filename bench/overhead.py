"""What the way through tritonserver costs: tokens per second over HTTP, over those of the engine called in-process."""

import contextlib
import itertools
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.deployment import MODEL, build, describe
from bench.engine import InProcess, in_process
from bench.load import over_http
from bench.report import console, load_average, table, write
from trition_repo_gen.server import free_ports, running_server

CLIENTS = (1, 8, 32)
MAX_LENGTH = 64
EQUAL = (MAX_LENGTH,)
MIXED = (16, 112, 40, 88, 24, 104, 56, 72)
"""As long on average. Answers of one length end at once, and the engine alone reads the next prompts in one step."""
ROUNDS = 8
"""Requests of each client, at the least; one client alone sends more, so that a run lasts a second."""
TARGET = 0.95
PROMPTS = (
    "What is the color of a banana?",
    "What is the capital of United States?",
    "How many legs has a spider?",
    "Which planet is the largest?",
    "Who wrote Faust?",
    "What do bees make?",
    "Where does the sun rise?",
    "How many days has a week?",
)


def run(checkpoint: Path, rank_python: Path, trials: int | None) -> None:
    """Measure, print and write."""
    trials = trials or 5
    load_before = load_average()
    console.rule("overhead over the engine")
    with tempfile.TemporaryDirectory() as folder:
        repository = build(checkpoint, Path(folder), rank_python)
        with serving(repository.folder) as url, in_process(repository, rank_python) as engine:
            results = [
                compare(url, engine, clients, max(2, clients) * ROUNDS, trials, lengths=lengths)
                for clients in CLIENTS
                for lengths in (EQUAL, MIXED)
            ]
        deployment = describe(checkpoint, repository.parameters())
    table(
        f"tokens/s, greedy answers, medians of {trials} alternating runs",
        [
            "clients",
            "tokens a request",
            "tritonserver",
            "runtime's engine",
            "ratio",
            "Megatron's engine",
            "ratio",
            "target",
        ],
        [
            [
                str(result["clients"]),
                result["lengths"],
                *(f"{result[key]:.{digits}f}" for key, digits in _COLUMNS),
                f"{TARGET}" if result["clients"] > 1 else "",
            ]
            for result in results
        ],
    )
    settings = {"target_ratio": TARGET, "deployment": deployment}
    write("overhead", settings | {"runs": results}, rank_python=rank_python, load_before=load_before)


_COLUMNS = (("server", 0), ("runtime", 0), ("ratio_runtime", 3), ("megatron", 0), ("ratio_megatron", 3))


def compare(
    url: str,
    engine: InProcess,
    clients: int,
    count: int,
    trials: int,
    *,
    lengths: Sequence[int],
    engines: Sequence[str] = ("runtime", "megatron"),
) -> dict[str, Any]:
    """Run all sides in turn, so that what else the machine does meets all of them.

    Args:
        url: HOST:PORT of the server.
        engine: the engines in-process, by the names in `engines`.
        clients: requests in flight.
        count: requests of one run.
        trials: runs of each side.
        lengths: new tokens of the requests, in turn.
        engines: the sides besides the server.
    """
    prompts = list(itertools.islice(itertools.cycle(PROMPTS), count))
    each = list(itertools.islice(itertools.cycle(lengths), count))
    described = f"{min(lengths)} to {max(lengths)}" if len(lengths) > 1 else f"{lengths[0]}"
    rates: dict[str, list[float]] = {side: [] for side in ("server", *engines)}
    for trial in range(-1, trials):  # the first warms up
        now = {"server": over_http(url, MODEL, clients, prompts, each).rate}
        now |= {side: engine.rate(side, clients, prompts, each) for side in engines}
        if trial < 0:
            continue
        console.print(
            f"{clients} clients, {described} tokens: " + ", ".join(f"{k} {v:.0f}" for k, v in now.items()), style="dim"
        )
        for side, rate in now.items():
            rates[side].append(rate)
    result: dict[str, Any] = {"clients": clients, "requests": count, "lengths": described, "tokens_per_second": rates}
    for side in rates:
        result[side] = statistics.median(rates[side])
    for side in engines:
        result[f"ratio_{side}"] = statistics.median(a / b for a, b in zip(rates["server"], rates[side], strict=True))
    return result


@contextlib.contextmanager
def serving(repository: Path) -> Iterator[str]:
    """Serve a repository; gives host:port of its HTTP endpoint."""
    http, grpc, metrics = free_ports(3)
    with running_server(repository, http_port=http, grpc_port=grpc, metrics_port=metrics, ready_within=1800) as server:
        assert server.http_url is not None
        yield server.http_url
