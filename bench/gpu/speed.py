"""Milliseconds per decoding step and tokens per second of a large model, through tritonserver's HTTP endpoint."""

import shutil
import statistics
import subprocess
from pathlib import Path
from typing import Any

from bench.gpu.serving import Host, Serving, serving
from bench.load import over_http
from bench.report import console, table

PROMPT_TOKENS = 128
NEW_TOKENS = 128
_WORDS = "the quick brown fox jumps over the lazy dog and runs away "


def run(host: Host, checkpoint: Path, layouts: dict[str, tuple[dict[str, Any], tuple[int, ...]]]) -> dict[str, Any]:
    """Measure each layout after another.

    Args:
        layouts: by name the `BuildOptions` and the numbers of concurrent requests.
    """
    results: dict[str, Any] = {}
    for name, (options, concurrency) in layouts.items():
        try:
            with serving(host, name, checkpoint, inference_max_seq_length=4096, **options) as running:
                running.wait_ready()
                results[name] = _measure(running, concurrency)
        except Exception as error:  # the others can still say something
            console.print(f"{name}: {error}", style="red")
            results[name] = {"error": str(error)}
    _print(results)
    return results


def _measure(running: Serving, concurrency: tuple[int, ...]) -> dict[str, Any]:
    result: dict[str, Any] = {"ready_seconds": round(running.ready_seconds, 1)}
    result["gpu_memory_gib"] = {"predicted": round(running.predicted_gib, 2)}
    for clients in concurrency:
        prompts = [prompt_of(PROMPT_TOKENS, index) for index in range(clients)]
        over_http(running.url, running.model, clients, prompts, 8)  # warms up
        loads = [over_http(running.url, running.model, clients, prompts, NEW_TOKENS) for _ in range(3)]
        firsts = [over_http(running.url, running.model, clients, prompts, 1) for _ in range(3)]
        seconds = statistics.median(load.seconds for load in loads)
        first = statistics.median(load.seconds for load in firsts)
        result[str(clients)] = {
            "tokens_per_second": round(statistics.median(load.rate for load in loads), 1),
            "tokens": loads[0].tokens,
            "seconds": seconds,
            "first_token_seconds": first,
            "ms_per_decode_step": 1000 * (seconds - first) / (NEW_TOKENS - 1),
        }
        console.print(f"{running.model}, {clients} at once: {result[str(clients)]}", style="dim")
    result["gpu_memory_gib"]["used"] = _gpu_memory_gib()
    console.print(f"{running.model}: GPU memory in GiB {result['gpu_memory_gib']}", style="dim")
    return result


def _gpu_memory_gib() -> list[float]:
    """Return what is in use of each GPU of the machine; nothing where there is none, as in a rehearsal."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [round(int(line) / 1024, 2) for line in lines]


def prompt_of(tokens: int, index: int) -> str:
    """Return so many bytes, which are as many tokens of the byte tokenizer, different for each index."""
    return f"{index:06d} {_WORDS * (tokens // len(_WORDS) + 1)}"[:tokens]


def _print(results: dict[str, Any]) -> None:
    sequences = [
        [name, clients, f"{r['ms_per_decode_step']:.2f}", f"{r['tokens_per_second']:.0f}"]
        for name, result in results.items()
        for clients, r in result.items()
        if clients.isdigit()
    ]
    table(
        f"{PROMPT_TOKENS} tokens in, {NEW_TOKENS} out, through HTTP, medians of 3 runs",
        ["layout", "concurrent", "ms per decode step", "tokens/s"],
        sequences,
    )
