"""Tiny models, their checkpoints and Hugging Face's answers: made once, whichever test asks first."""

import fcntl
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.commands import run

RANDOM_MODELS = ("qwen2", "qwen3", "qwen3moe", "deepseekv3", "mistral")
PROMPTS = [
    "What is the color of a banana?",
    "What is the capital of United States?",
    "Hello, my name is",
    "0123456789",
    "def f(x):\n  return",
    "Once upon a time there was",
    "a",
    "Das ist ein Test",
]


@dataclass(frozen=True)
class Prepared:
    """What tests compare with each other, by the model's name."""

    checkpoints: dict[str, Path]
    """Megatron-Bridge checkpoints in float32."""
    references: dict[str, list[dict[str, Any]]]
    """What Hugging Face's `generate` answers to PROMPTS: greedy, 32 tokens, float32."""


@contextmanager
def unless_done(folder: Path) -> Iterator[bool]:
    """Keep other processes out of a folder; gives whether its content has to be made, which the end marks as done."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = not (folder / "done").exists()
        yield missing
        (folder / "done").touch()


def prepare(folder: Path, checkout: Path, megatron_python: Path) -> Prepared:
    """Convert the trained model and random ones, and have Hugging Face answer; these two take a core each."""
    models = {"llama": checkout / "examples/tiny_llama"}
    models |= {name: folder / "hugging_face" / name for name in RANDOM_MODELS}
    checkpoints = {name: folder / "checkpoints" / name for name in models}
    answers = {name: folder / "answers" / f"{source.name}.json" for name, source in models.items()}
    with unless_done(folder) as missing:
        if missing:
            (folder / "answers").mkdir(exist_ok=True)
            (folder / "prompts.json").write_text(json.dumps(PROMPTS))
            scripts = checkout / "tests/models"
            run([megatron_python, scripts / "random_models.py", folder / "hugging_face", *RANDOM_MODELS])
            pairs = [part for name, source in models.items() for part in (source, checkpoints[name])]
            convert = [megatron_python, checkout / "examples/make_checkpoint.py", "--dtype", "float32", *pairs]
            reference = [megatron_python, scripts / "reference.py", folder / "prompts.json", folder / "answers"]
            with ThreadPoolExecutor() as pool:
                list(pool.map(run, [convert, [*reference, *models.values(), "--max-new-tokens", "32", "--top-n", "3"]]))
    return Prepared(checkpoints, {name: json.loads(path.read_text()) for name, path in answers.items()})
