"""What the benchmarks serve: a checkpoint and its rendered repository."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.report import console

CHECKOUT = Path(__file__).parents[1]
MODEL = "bench"
TRGEN = Path(sys.executable).with_name("trgen")
_CACHE = CHECKOUT / ".cache/bench"
_TINY = "qwen3"
"""A random model: unlike the trained one it never ends an answer before `max_length`, greedy as it is."""


@dataclass(frozen=True)
class Repository:
    """A rendered model repository with one model and what goes with it."""

    folder: Path
    model: str = MODEL

    @property
    def version_folder(self) -> Path:
        """The folder of model.py and of the package `runtime`."""
        return self.folder / self.model / "1"

    def parameters(self) -> dict[str, str]:
        """Return the run-time settings, as config.pbtxt holds them."""
        from trition_repo_gen.repository.validate import parse

        config = parse((self.folder / self.model / "config.pbtxt").read_text())
        return {key: value.string_value for key, value in config.parameters.items()}


def tiny_checkpoint(rank_python: Path) -> Path:
    """Return a Megatron-Bridge checkpoint of a tiny random model; it is made once."""
    models = _CACHE / "models"
    if not (models / _TINY).exists():
        _run(rank_python, CHECKOUT / "tests/models/random_models.py", models, _TINY)
    return _converted(models / _TINY, rank_python)


def trained_checkpoint(rank_python: Path) -> Path:
    """Return one of the trained tiny model, each of whose first tokens is text at once; it is made once."""
    return _converted(CHECKOUT / "examples/tiny_llama", rank_python)


def _converted(model: Path, rank_python: Path) -> Path:
    checkpoint = _CACHE / "checkpoints" / model.name
    if not (checkpoint / "latest_checkpointed_iteration.txt").exists():
        console.print(f"making a checkpoint of {model.name}", style="dim")
        _run(rank_python, CHECKOUT / "examples/make_checkpoint.py", "--dtype", "float32", model, checkpoint)
    return checkpoint


def build_command(checkpoint: Path, repository: Path, rank_python: Path) -> list[str | Path]:
    """Return the command that renders `repository` for `checkpoint`."""
    return [
        *(TRGEN, "build", "--megatron-checkpoint", checkpoint, "--model-name", MODEL),
        *("--model-repository", repository, "--rank-python", rank_python),
    ]


def build(checkpoint: Path, repository: Path, rank_python: Path, *flags: str) -> Repository:
    """Render a repository; `flags` are further ones of `trgen build`."""
    _run(*build_command(checkpoint, repository, rank_python), *flags)
    return Repository(repository)


def describe(checkpoint: Path, parameters: dict[str, str]) -> dict[str, str]:
    """Return what of the deployment the numbers depend on."""
    keys = ("PARAMS_DTYPE", "TENSOR_PARALLEL_SIZE", "PIPELINE_PARALLEL_SIZE", "MAX_REQUESTS", "MAX_SEQUENCE_LENGTH")
    return {"checkpoint": checkpoint.name} | {key.lower(): parameters[key] for key in keys}


def _run(*command: str | Path) -> None:
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    if completed.returncode:
        sys.exit(f"`{json.dumps([str(word) for word in command])}` failed:\n{completed.stderr[-4000:]}")
