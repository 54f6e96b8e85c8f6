"""Fixtures for all tests: the environments, the tiny models and their checkpoints."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def _environment() -> None:
    """No test may depend on what a model hub answers, or on what its caller prefers for ranks or ignores (nohup)."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"
    os.environ.pop("TRGEN_RANK_PYTHON", None)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The project's root folder."""
    return CHECKOUT


@pytest.fixture(scope="session")
def megatron_python() -> Path:
    """The interpreter of the ranks' environment."""
    python = Path(os.environ.get("TRGEN_MEGATRON_PYTHON", CHECKOUT / ".envs/megatron/bin/python"))
    if not python.exists():
        pytest.fail(f"{python} is missing; run `make environments` first.")
    return python


@pytest.fixture(scope="session")
def nemo_python() -> Path:
    """The interpreter of the environment for NeMo 2.0 checkpoints."""
    python = CHECKOUT / ".envs/nemo/bin/python"
    if not python.exists():
        pytest.fail(f"{python} is missing; run `make environments` first.")
    return python


@pytest.fixture(scope="session")
def in_megatron(megatron_python: Path) -> Callable[..., Any]:
    """Run a script beside a test file in the ranks' environment and return the JSON document it prints last.

    The script gets the folder of the package `runtime` as its first argument, then what the caller passes.
    """

    def run(test_file: str, script: str, *arguments: str) -> Any:
        completed = subprocess.run(
            [megatron_python, Path(test_file).parent / script, CHECKOUT / "src/trition_repo_gen", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert completed.returncode == 0, completed.stderr[-4000:]
        return json.loads(completed.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def tiny_llama() -> Path:
    """The trained tiny model, in Hugging Face's format."""
    return CHECKOUT / "examples/tiny_llama"


@pytest.fixture(scope="session")
def tiny_qwen_vl() -> Path:
    """The trained tiny model that takes images, in Hugging Face's format."""
    return CHECKOUT / "examples/tiny_qwen_vl"
