"""Hugging Face's log-probabilities of the same weights and prompts."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from bench.deployment import CHECKOUT
from bench.gpu.serving import Host


def hugging_face(
    host: Host, dtype: str, prompts: Sequence[str], folders: Mapping[str, Path]
) -> dict[str, list[list[float]]]:
    """Return the log-probabilities of each prompt's tokens but the first, and of the first new one, by model.

    Args:
        host: where, and with which interpreter.
        dtype: `float32` or `bfloat16`.
        prompts: of all models.
        folders: by model, in Hugging Face's format.
    """
    out = host.folder / f"reference-{dtype}"
    out.mkdir(parents=True, exist_ok=True)
    (out / "prompts.json").write_text(json.dumps(list(prompts)))
    script = CHECKOUT / "tests/models/reference.py"
    command: list[str | Path] = [host.rank_python, script, out / "prompts.json", out, *folders.values()]
    subprocess.run([*command, "--max-new-tokens", "1", "--ignore-eos", "--dtype", dtype], check=True)
    found = {name: json.loads((out / f"{folder.name}.json").read_text()) for name, folder in folders.items()}
    return {
        name: [record["prompt_log_probs"] + record["generated_log_probs"] for record in records]
        for name, records in found.items()
    }


def mean_difference(sequences: list[list[float]], expected: list[list[float]]) -> float:
    """Return the mean distance of two models' log-probabilities of the same tokens, in nats."""
    pairs = [
        (a, b)
        for sequence, other in zip(sequences, expected, strict=True)
        for a, b in zip(sequence, other, strict=True)
    ]
    return mean(abs(a - b) for a, b in pairs)
