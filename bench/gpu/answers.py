"""Layouts over GPUs against one: the trained model's answers, a random mixture of experts' log-probabilities."""

import contextlib
from pathlib import Path
from typing import Any

from bench.gpu.serving import Host, Serving, serving
from bench.report import console, table
from trition_repo_gen.errors import ServerError

PROMPTS = (
    "What is the color of a banana?",
    "What is the capital of United States?",
    "How do you write 'cat' in Japanese?",
    "Count from one to fifty.",
    "How many legs has a spider?",
    "Which planet is the largest?",
    "What do bees make?",
    "How many days has a week?",
)
MAX_LENGTH = 600
KV_CACHE_GIB = 4.0
DENSE: dict[str, dict[str, Any]] = {
    "one GPU": {},
    "CUDA graphs": {"enable_cuda_graphs": True},
    "TP2": {"tensor_parallel_size": 2},
    "PP2": {"pipeline_parallel_size": 2},
    "DP2": {"num_gpus": 2},
    "TP2 CUDA graphs": {"tensor_parallel_size": 2, "enable_cuda_graphs": True},
}
EXPERTS: dict[str, dict[str, Any]] = {
    "one GPU": {},
    "TP2": {"tensor_parallel_size": 2},
    "EP2": {"expert_parallel_size": 2},
}


def run(host: Host, trained: Path, experts: Path, gpus: int) -> dict[str, Any]:
    """Serve every layout that `gpus` GPUs allow, side by side, and compare."""
    wanted = {("trained", name): (trained, options) for name, options in DENSE.items()}
    wanted |= {("experts", name): (experts, options) for name, options in EXPERTS.items()}
    wanted = {key: value for key, value in wanted.items() if gpus > 1 or "2" not in key[1]}
    with contextlib.ExitStack() as stack:
        servers = _serve_all(host, stack, wanted)
        return {
            "trained": _compare_texts({name: s for (model, name), s in servers.items() if model == "trained"}),
            "experts": _compare_log_probs({name: s for (model, name), s in servers.items() if model == "experts"}),
        }


def _serve_all(host: Host, stack: contextlib.ExitStack, wanted: dict[Any, Any]) -> dict[Any, Serving]:
    servers = {}
    for key, (checkpoint, options) in wanted.items():
        name = "_".join(key).replace(" ", "-")
        sizes = {"kv_cache_gib": KV_CACHE_GIB, "max_requests": 32}
        servers[key] = stack.enter_context(serving(host, name, checkpoint, **sizes, **options))
    ready = {}
    for key, running in servers.items():
        try:
            running.wait_ready()
            ready[key] = running
        except ServerError as error:  # the others can still say something
            console.print(f"{running.model}: {error}", style="red")
    return ready


def _compare_texts(servers: dict[str, Serving]) -> dict[str, Any]:
    expected = [row["text"] for row in servers["one GPU"].ask(PROMPTS, MAX_LENGTH)]
    results: dict[str, Any] = {"answers": dict(zip(PROMPTS, expected, strict=True)), "same": {}, "ready_seconds": {}}
    for name, running in servers.items():
        got = [row["text"] for row in running.ask(PROMPTS, MAX_LENGTH)]
        results["same"][name] = f"{sum(a == b for a, b in zip(got, expected, strict=True))}/{len(PROMPTS)}"
        results["ready_seconds"][name] = round(running.ready_seconds, 1)
    table(
        "The trained tiny model: answers like one GPU's",
        ["layout", "same", "ready, s"],
        [[name, same, str(results["ready_seconds"][name])] for name, same in results["same"].items()],
    )
    return results


def _compare_log_probs(servers: dict[str, Serving]) -> dict[str, Any]:
    """Compare the prompts' log-probabilities: random weights leave no margin for answers to be alike in bfloat16."""
    expected = [row["log_probs"] for row in servers["one GPU"].ask(PROMPTS, 1, echo=True)]
    results = {}
    for name, running in servers.items():
        rows = [row["log_probs"] for row in running.ask(PROMPTS, 1, echo=True)]
        pairs = [(a, b) for row, other in zip(rows, expected, strict=True) for a, b in zip(row, other, strict=True)]
        differences = sorted(abs(a - b) for a, b in pairs)
        results[name] = {
            "tokens": len(pairs),
            "median_difference": differences[len(differences) // 2],
            "largest_difference": differences[-1],
        }
    table(
        "A random Qwen3-MoE: log-probabilities of prompts against one GPU's, in nats",
        ["layout", "tokens", "median difference", "largest"],
        [
            [name, str(r["tokens"]), f"{r['median_difference']:.4f}", f"{r['largest_difference']:.4f}"]
            for name, r in results.items()
        ],
    )
    return results
