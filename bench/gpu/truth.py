"""Log-probabilities of prompts through tritonserver in bfloat16, against Hugging Face's on the same weights.

How far bfloat16 alone takes a model from float32, Hugging Face's own two runs say.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.gpu.answers import KV_CACHE_GIB, PROMPTS
from bench.gpu.reference import hugging_face, mean_difference
from bench.gpu.serving import Host, serving
from bench.report import console, table
from trition_repo_gen.errors import UserError

MODELS = ("trained", "qwen2_wide", "qwen3_wide", "qwen3moe_wide", "mistral_wide", "gptoss_wide", "deepseekv3_wide")
"""The trained tiny Llama; random ones with biases, norms of queries and keys, experts, windows, sinks, latents."""
LONG = " ".join(PROMPTS)
_REFUSAL = "cannot start: "


def run(host: Host, models: Mapping[str, tuple[Path, Path]]) -> dict[str, Any]:
    """Serve each model, and compare.

    Args:
        models: by name the folder in Hugging Face's format and the checkpoint.
    """
    prompts = [*PROMPTS, LONG]
    results: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        servers = {}
        for name, (_, checkpoint) in models.items():
            try:
                options = {"kv_cache_gib": KV_CACHE_GIB, "max_requests": 32, "max_batch_size": len(prompts)}
                servers[name] = stack.enter_context(serving(host, f"truth-{name}", checkpoint, **options))
            except UserError as error:  # the others can still say something
                results[name] = {"refused": _why(error, checkpoint)}
        expected = {
            dtype: hugging_face(host, dtype, prompts, {name: models[name][0] for name in servers})
            for dtype in ("float32", "bfloat16")
        }
        for name, running in servers.items():
            try:
                running.wait_ready()
                got = [sequence["log_probs"] for sequence in running.ask(prompts, 1, echo=True)]
            except UserError as error:
                console.print(f"{name}: {error}", style="red")
                results[name] = {"error": _why(error, models[name][1])}
                continue
            exact, rounded = expected["float32"][name], expected["bfloat16"][name]
            results[name] = {
                "tokens": sum(len(sequence) for sequence in exact),
                "mean_difference": mean_difference(got, exact),
                "mean_difference_of_hugging_face": mean_difference(rounded, exact),
            }
    table(
        "Log-probabilities of prompts in bfloat16, mean difference from float32 in nats",
        ["model", "tokens", "tritonserver", "Hugging Face", "ratio"],
        [_sequence(name, result) for name, result in results.items()],
    )
    return results


def _why(error: UserError, checkpoint: Path) -> str:
    """Return the sentence that says why a model is not served, of all that its server may have written."""
    lines = str(error).splitlines()
    said = next((line for line in lines if _REFUSAL in line), lines[0])
    return (said.partition(_REFUSAL)[2] or said).replace(f"{checkpoint.parent}/", "")


def _sequence(name: str, result: Mapping[str, Any]) -> list[str]:
    if "tokens" not in result:
        return [name, "", str(result.get("refused") or result.get("error"))[:60], "", ""]
    ours, theirs = result["mean_difference"], result["mean_difference_of_hugging_face"]
    return [name, str(result["tokens"]), f"{ours:.5f}", f"{theirs:.5f}", f"{ours / theirs:.2f}"]
