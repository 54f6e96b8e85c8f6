"""Layouts over GPUs against one: the trained model's answers, a random mixture of experts' log-probabilities."""

import contextlib
from pathlib import Path
from typing import Any

from bench.gpu.reference import hugging_face, mean_difference
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
COPIES = 4
"""How often each is asked at once: together they are more tokens than Megatron Core records steps of."""
MAX_LENGTH = 600
KV_CACHE_GIB = 2.0
DENSE: dict[str, dict[str, Any]] = {
    "one GPU": {},
    "CUDA graphs": {"enable_cuda_graphs": True},
    "plain layers": {"fused_layers": "off"},
    "plain layers CUDA graphs": {"fused_layers": "off", "enable_cuda_graphs": True},
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


def run(host: Host, trained: Path, experts: tuple[Path, Path], gpus: int) -> dict[str, Any]:
    """Serve every layout that `gpus` GPUs allow, side by side, and compare.

    Args:
        host: where.
        trained: the checkpoint of the trained model.
        experts: the mixture of experts in Hugging Face's format, and its checkpoint.
        gpus: 1 or 2.
    """
    wanted = {("trained", name): (trained, options) for name, options in DENSE.items()}
    wanted |= {("experts", name): (experts[1], options) for name, options in EXPERTS.items()}
    left_out = "plain layers" if gpus > 1 else "2"  # of one GPU's kernels one GPU says enough
    wanted = {key: value for key, value in wanted.items() if left_out not in key[1]}
    with contextlib.ExitStack() as stack:
        loading = _start_all(host, stack, wanted)
        exact, rounded = (
            hugging_face(host, dtype, PROMPTS, {"experts": experts[0]})["experts"] for dtype in ("float32", "bfloat16")
        )
        servers = _ready_ones(loading)
        layouts = {name: s for (model, name), s in servers.items() if model == "experts"}
        return {
            "trained": _compare_texts({name: s for (model, name), s in servers.items() if model == "trained"}),
            "experts": _compare_log_probs(layouts, exact, rounded),
        }


def _start_all(host: Host, stack: contextlib.ExitStack, wanted: dict[Any, Any]) -> dict[Any, Serving]:
    servers = {}
    for key, (checkpoint, options) in wanted.items():
        name = "_".join(key).replace(" ", "-")
        sequences = COPIES * len(PROMPTS)
        sizes = {"kv_cache_gib": KV_CACHE_GIB, "max_requests": sequences, "max_batch_size": sequences}
        servers[key] = stack.enter_context(serving(host, name, checkpoint, **sizes, **options))
    return servers


def _ready_ones(servers: dict[Any, Serving]) -> dict[Any, Serving]:
    ready = {}
    for key, running in servers.items():
        try:
            running.wait_ready()
            ready[key] = running
        except ServerError as error:  # the others can still say something
            console.print(f"{running.model}: {error}", style="red")
    return ready


def _compare_texts(servers: dict[str, Serving]) -> dict[str, Any]:
    expected = [sequence["text"] for sequence in servers["one GPU"].ask(PROMPTS, MAX_LENGTH)]
    results: dict[str, Any] = {"answers": dict(zip(PROMPTS, expected, strict=True)), "same": {}, "ready_seconds": {}}
    for name, running in servers.items():
        got = [sequence["text"] for sequence in running.ask(PROMPTS * COPIES, MAX_LENGTH)]
        results["same"][name] = f"{sum(a == b for a, b in zip(got, expected * COPIES, strict=True))}/{len(got)}"
        results["ready_seconds"][name] = round(running.ready_seconds, 1)
    table(
        "The trained tiny model: answers like one GPU's",
        ["layout", "same", "ready, s"],
        [[name, same, str(results["ready_seconds"][name])] for name, same in results["same"].items()],
    )
    return results


def _compare_log_probs(
    servers: dict[str, Serving], exact: list[list[float]], rounded: list[list[float]]
) -> dict[str, Any]:
    """Compare the prompts' log-probabilities: random weights leave no margin for answers to be alike in bfloat16.

    Args:
        servers: by layout.
        exact: Hugging Face's in float32.
        rounded: Hugging Face's in bfloat16, which say how far rounding alone leads.
    """
    found = {"Hugging Face": rounded}
    found |= {name: [sequence["log_probs"] for sequence in s.ask(PROMPTS, 1, echo=True)] for name, s in servers.items()}
    results = {}
    for name, sequences in found.items():
        one_gpu = zip(sequences, found["one GPU"], strict=True)
        differences = sorted(abs(a - b) for sequence, other in one_gpu for a, b in zip(sequence, other, strict=True))
        results[name] = {
            "tokens": len(differences),
            "mean_difference_from_float32": mean_difference(sequences, exact),
            "median_difference": differences[len(differences) // 2],
            "largest_difference": differences[-1],
        }
    table(
        "A random Qwen3-MoE: log-probabilities of prompts in bfloat16, differences in nats",
        ["layout", "tokens", "mean, from float32", "median, from one GPU", "largest"],
        [[name, *(f"{value:.4f}".removesuffix(".0000") for value in r.values())] for name, r in results.items()],
    )
    return results
