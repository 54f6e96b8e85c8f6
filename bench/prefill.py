"""What prefix caching and chunked prefill bring and cost: the engine in-process, with long prompts."""

import statistics
import tempfile
from pathlib import Path
from typing import Any

from bench.deployment import build, describe
from bench.engine import in_process
from bench.report import console, load_average, table, write

ENGINES = ("runtime", "prefix caching", "chunked prefill")
CLIENTS = 8
REQUESTS = 32
MAX_LENGTH = 32
BYTES = 700
"""Of a prompt; the tiny model has a token a byte."""
COMMON = "You are a helpful assistant. Answer in one sentence, and say so if you do not know. "


def prompts(trial: int, *, alike: bool) -> list[str]:
    """Return prompts of BYTES bytes that begin alike up to the last 40, or differ from the first byte on."""
    texts = []
    for number in range(REQUESTS):
        name = f"{trial}.{number} "
        start = (COMMON * BYTES)[: BYTES - 40] if alike else (name * BYTES)[: BYTES - 40]
        texts.append((start + name * 40)[:BYTES])
    return texts


def run(checkpoint: Path, rank_python: Path, trials: int | None) -> None:
    """Measure, print and write."""
    trials = trials or 3
    load_before = load_average()
    console.rule("prefix caching and chunked prefill")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        repository = build(checkpoint, Path(folder), rank_python)
        with in_process(repository, rank_python) as engine:
            for alike in (True, False):
                runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ENGINES}
                for trial in range(-1, trials):  # the first warms up
                    for name in ENGINES:
                        answer = engine.run(name, CLIENTS, prompts(trial, alike=alike), MAX_LENGTH)
                        if trial >= 0:
                            runs[name].append(answer)
                kind = {"prompts": "alike" if alike else "different"}
                results += [kind | {"engine": name} | _medians(runs[name], runs["runtime"]) for name in ENGINES]
        deployment = describe(checkpoint, repository.parameters())
    table(
        f"{REQUESTS} prompts of {BYTES} bytes, {MAX_LENGTH} tokens each, {CLIENTS} at a time, medians of {trials} runs",
        ["prompts", "engine", "tokens/s", "of the plain engine's", "longest step, ms"],
        [
            [
                *(each["prompts"], each["engine"]),
                *(f"{each['rate']:.0f}", f"{each['ratio']:.2f}", f"{each['longest_step'] * 1e3:.0f}"),
            ]
            for each in results
        ],
    )
    load = {"clients": CLIENTS, "requests": REQUESTS, "max_length": MAX_LENGTH, "prompt_bytes": BYTES}
    write(
        "prefill", load | {"deployment": deployment, "runs": results}, rank_python=rank_python, load_before=load_before
    )


def _medians(runs: list[dict[str, Any]], plain: list[dict[str, Any]]) -> dict[str, float]:
    rates = [run["tokens"] / run["seconds"] for run in runs]
    ratios = [rate * run["seconds"] / run["tokens"] for rate, run in zip(rates, plain, strict=True)]
    return {
        "rate": statistics.median(rates),
        "ratio": statistics.median(ratios),
        "longest_step": statistics.median(run["longest_step"] for run in runs),
    }
