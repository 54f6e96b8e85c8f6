"""What the way through tritonserver costs where cores are plenty: tokens per second over those of the engine alone, and
the time to the first token.
"""

from pathlib import Path
from typing import Any

from bench.deployment import MODEL
from bench.engine import in_process
from bench.gpu import first_token
from bench.gpu.serving import Host, serving
from bench.overhead import EQUAL, MIXED, compare
from bench.report import table

CLIENTS = {1: 8, 64: 256, 256: 1024}
"""Clients, and the requests of a run."""
TARGET = 0.95
_TRIALS = 3
_KV_CACHE_GIB = 10.0  # the server and the engine in-process share a GPU, which may have 80 GB


def run(host: Host, checkpoint: Path) -> dict[str, Any]:
    """Run both sides in turn, on one GPU with CUDA graphs."""
    options = {"enable_cuda_graphs": True, "kv_cache_gib": _KV_CACHE_GIB}
    with serving(host, MODEL, checkpoint, **options) as running:
        running.wait_ready()
        with in_process(running.repository, Path(host.rank_python)) as engine:
            results = [
                compare(running.url, engine, clients, count, _TRIALS, lengths=lengths, engines=("runtime",))
                for clients, count in CLIENTS.items()
                for lengths in (EQUAL, MIXED)
            ]
            to_first_token = first_token.measure(running, engine)
    table(
        f"tokens/s, greedy answers, medians of {_TRIALS} alternating runs",
        ["clients", "tokens a request", "tritonserver", "engine in-process", "ratio", "target"],
        [[str(r["clients"]), r["lengths"], *_figures(r), f"{TARGET}"] for r in results],
    )
    return {"runs": results, "first_token": to_first_token}


def _figures(result: dict[str, Any]) -> list[str]:
    return [f"{result['server']:.0f}", f"{result['runtime']:.0f}", f"{result['ratio_runtime']:.3f}"]
