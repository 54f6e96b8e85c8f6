"""Decoding with a KV cache over computing every token anew, in a model that takes images: the engine in-process.

    python -m bench recompute

The same engine does both: one sequence of 64 new tokens, or 64 sequences of one new token, each with all that came
before it as its prompt, images included. The model is a random one out of a NeMo 2.0 checkpoint.
"""

import base64
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.deployment import CHECKOUT, MODEL, Repository, describe
from bench.engine import in_process
from bench.report import console, load_average, table, write

NEW_TOKENS = 64
TARGET = 5.0
NAME = "qwen25vl"
SIDES = (56, 112, 224)
"""Of the image, in pixels: 4, 16 and 64 tokens."""
QUESTION = "What is in this image? Answer in one sentence."
_CACHE = CHECKOUT / ".cache/bench"
_DRIVER = Path(__file__).with_name("recompute_driver.py")


def run(trials: int | None) -> None:
    """Measure, print and write."""
    trials = trials or 5
    load_before = load_average()
    console.rule("a KV cache for models that take images")
    nemo_python = Path(os.environ.get("TRGEN_NEMO_PYTHON", CHECKOUT / ".envs/nemo/bin/python"))
    checkpoint = _checkpoint(nemo_python)
    with tempfile.TemporaryDirectory() as folder:
        _run(
            *(Path(sys.executable).with_name("trgen"), "build", "--nemo-checkpoint", checkpoint, "--multimodal"),
            *("--model-name", MODEL, "--model-repository", folder, "--rank-python", nemo_python),
            *("--params-dtype", "float32", "--no-stream"),
        )
        repository = Repository(Path(folder))
        with in_process(repository, nemo_python, _DRIVER) as engine:
            results = [_compare(engine, side, trials) for side in SIDES]
        deployment = describe(checkpoint, repository.parameters())
    table(
        f"{NEW_TOKENS} greedy tokens about one image, medians of {trials} alternating runs",
        ["image, pixels", "prompt, tokens", "with cache, s", "every token anew, s", "ratio", "target"],
        [
            [
                *(f"{each['side']}²", str(each["prompt_tokens"]), f"{each['cached']:.2f}"),
                *(f"{each['recomputed']:.2f}", f"{each['ratio']:.1f}", f"{TARGET:.0f}"),
            ]
            for each in results
        ],
    )
    settings = {"new_tokens": NEW_TOKENS, "target_ratio": TARGET, "deployment": deployment}
    write("recompute", settings | {"runs": results}, rank_python=nemo_python, load_before=load_before)


def _compare(engine: Any, side: int, trials: int) -> dict[str, Any]:
    image = io.BytesIO()
    noise = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(image, "PNG")
    command = {
        "prompt": QUESTION,
        "image": base64.b64encode(image.getvalue()).decode(),
        "new_tokens": NEW_TOKENS,
    }
    answers = [engine.ask(command) for _ in range(trials + 1)][1:]  # the first warms up
    assert all(answer["equal"] for answer in answers), "the two ways differ in their tokens"
    return {
        "side": side,
        "prompt_tokens": answers[0]["prompt_tokens"],
        "cached": statistics.median(answer["cached"] for answer in answers),
        "recomputed": statistics.median(answer["recomputed"] for answer in answers),
        "ratio": statistics.median(answer["recomputed"] / answer["cached"] for answer in answers),
        "ratios": [answer["recomputed"] / answer["cached"] for answer in answers],
    }


def _checkpoint(nemo_python: Path) -> Path:
    """Return a NeMo 2.0 checkpoint of a tiny random model; it is made once."""
    checkpoint = _CACHE / "checkpoints" / f"nemo_{NAME}"
    if not (checkpoint / "context/io.json").exists():
        console.print(f"making a tiny {NAME} checkpoint", style="dim")
        models = _CACHE / "models"
        _run(nemo_python, CHECKOUT / "tests/models/random_vision_models.py", models, NAME)
        _run(nemo_python, CHECKOUT / "examples/make_nemo_checkpoint.py", models / NAME, checkpoint)
    return checkpoint


def _run(*command: str | Path) -> None:
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    if completed.returncode:
        sys.exit(f"`{json.dumps([str(word) for word in command])}` failed:\n{completed.stderr[-4000:]}")
