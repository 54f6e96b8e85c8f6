"""Fixtures for all tests: the environments, the tiny models and their checkpoints."""

import os
import signal
from pathlib import Path

import pytest

from tests.models.prepared import Prepared, prepare

CHECKOUT = Path(__file__).parents[1]


def pytest_configure() -> None:
    """Let no test depend on what a model hub answers, or on what its caller prefers for ranks or ignores (nohup)."""
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
    return _python(Path(os.environ.get("TRGEN_MEGATRON_PYTHON", CHECKOUT / ".envs/megatron/bin/python")))


@pytest.fixture(scope="session")
def nemo_python() -> Path:
    """The interpreter of the environment for NeMo 2.0 checkpoints."""
    return _python(CHECKOUT / ".envs/nemo/bin/python")


def _python(path: Path) -> Path:
    if not path.exists():
        pytest.fail(f"{path} is missing; run `make environments` first.")
    return path


@pytest.fixture(scope="session")
def tiny_llama() -> Path:
    """The trained tiny model, in Hugging Face's format."""
    return CHECKOUT / "examples/tiny_llama"


@pytest.fixture(scope="session")
def tiny_qwen_vl() -> Path:
    """The trained tiny model that takes images, in Hugging Face's format."""
    return CHECKOUT / "examples/tiny_qwen_vl"


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all processes of a test run use; with TRGEN_TEST_FOLDER, all runs that name the same."""
    if named := os.environ.get("TRGEN_TEST_FOLDER"):
        return Path(named)
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def prepared(shared_folder: Path, checkout: Path, megatron_python: Path) -> Prepared:
    """Tiny models, their checkpoints and Hugging Face's answers."""
    return prepare(shared_folder / "prepared", checkout, megatron_python)


@pytest.fixture(scope="session")
def checkpoints(prepared: Prepared) -> dict[str, Path]:
    """Megatron-Bridge checkpoints of the trained model and of random ones of other architectures, in float32."""
    return prepared.checkpoints
