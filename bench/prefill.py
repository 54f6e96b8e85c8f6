"""What prefix caching and chunked prefill bring and cost: the engine in-process, with long prompts."""

import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.deployment import build, describe
from bench.engine import InProcess, in_process
from bench.report import console, load_average, table, write

ENGINES = ("runtime", "prefix caching", "chunked prefill")
COMMON = "You are a helpful assistant. Answer in one sentence, and say so if you do not know. "


@dataclass(frozen=True)
class Work:
    """What each engine does; the tiny models' tokenizer has a token a byte."""

    clients: int = 8
    requests: int = 32
    prompt_bytes: int = 700
    max_length: int = 32


def prompts(work: Work, trial: int, *, alike: bool) -> list[str]:
    """Return prompts that begin alike up to the last 40 bytes, or differ from the first byte on."""
    texts = []
    for number in range(work.requests):
        name = f"{trial}.{number} "
        start = ((COMMON if alike else name) * work.prompt_bytes)[: work.prompt_bytes - 40]
        texts.append((start + name * 40)[: work.prompt_bytes])
    return texts


def run(checkpoint: Path, rank_python: Path, trials: int | None) -> None:
    """Measure, print and write."""
    work = Work()
    load_before = load_average()
    console.rule("prefix caching and chunked prefill")
    with tempfile.TemporaryDirectory() as folder:
        repository = build(checkpoint, Path(folder), rank_python)
        with in_process(repository, rank_python) as engine:
            results = compare(dict.fromkeys(ENGINES, engine), work, trials or 3)
        deployment = describe(checkpoint, repository.parameters())
    settings = asdict(work) | {"deployment": deployment}
    write("prefill", settings | {"runs": results}, rank_python=rank_python, load_before=load_before)


def compare(processes: Mapping[str, InProcess], work: Work, trials: int) -> list[dict[str, Any]]:
    """Run the engines in turn, print a table, and return the medians.

    Args:
        processes: which one has each engine.
        work: what to run.
        trials: runs of each.
    """
    results = []
    for alike in (True, False):
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ENGINES}
        for trial in range(-1, trials):  # the first warms up
            for name in ENGINES:
                answer = processes[name].run(name, work.clients, prompts(work, trial, alike=alike), work.max_length)
                if trial >= 0:
                    runs[name].append(answer)
        kind: dict[str, Any] = {"prompts": "alike" if alike else "different"}
        results += [kind | {"engine": name} | _medians(runs[name], runs["runtime"]) for name in ENGINES]
    table(
        f"{work.requests} prompts of {work.prompt_bytes} bytes, {work.max_length} tokens each, "
        f"{work.clients} at a time, medians of {trials} runs",
        ["prompts", "engine", "tokens/s", "of the plain engine's", "longest step, ms"],
        [
            [
                *(each["prompts"], each["engine"]),
                *(f"{each['rate']:.0f}", f"{each['ratio']:.2f}", f"{each['longest_step'] * 1e3:.0f}"),
            ]
            for each in results
        ],
    )
    return results


def _medians(runs: list[dict[str, Any]], plain: list[dict[str, Any]]) -> dict[str, float]:
    rates = [run["tokens"] / run["seconds"] for run in runs]
    ratios = [rate * run["seconds"] / run["tokens"] for rate, run in zip(rates, plain, strict=True)]
    return {
        "rate": statistics.median(rates),
        "ratio": statistics.median(ratios),
        "longest_step": statistics.median(run["longest_step"] for run in runs),
    }
