"""Real tritonserver, real ranks: checkpoints of tiny models, and servers of them."""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.serving import PROMPTS, Serve, Serving, build, run, serving_of

RANDOM_MODELS = ("qwen2", "qwen3", "qwen3moe", "deepseekv3", "mistral")


@dataclass(frozen=True)
class Prepared:
    """What is made once for all tests, whichever process asks first."""

    checkpoints: dict[str, Path]
    references: dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="session")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, worker_id: str, megatron_python: Path, checkout: Path, tiny_llama: Path
) -> Prepared:
    """Tiny models, their checkpoints and Hugging Face's answers; converting and answering take a core each."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "prepared"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        models = {"llama": tiny_llama} | {name: folder / "hugging_face" / name for name in RANDOM_MODELS}
        checkpoints = {name: folder / "checkpoints" / name for name in models}
        answers = {name: folder / "answers" / f"{source.name}.json" for name, source in models.items()}
        if not (folder / "done").exists():
            (folder / "answers").mkdir(exist_ok=True)
            (folder / "prompts.json").write_text(json.dumps(PROMPTS))
            scripts = checkout / "tests/models"
            run([megatron_python, scripts / "random_models.py", folder / "hugging_face", *RANDOM_MODELS])
            pairs = [part for name, source in models.items() for part in (source, checkpoints[name])]
            convert = [megatron_python, checkout / "examples/make_checkpoint.py", "--dtype", "float32", *pairs]
            with ThreadPoolExecutor() as pool:
                converted = pool.submit(run, convert)
                reference = [megatron_python, scripts / "reference.py", folder / "prompts.json", folder / "answers"]
                run([*reference, *models.values(), "--max-new-tokens", "32", "--top-n", "3"])
                converted.result()
            (folder / "done").touch()
    return Prepared(checkpoints, {name: json.loads(path.read_text()) for name, path in answers.items()})


@pytest.fixture(scope="session")
def checkpoints(prepared: Prepared) -> dict[str, Path]:
    """Megatron-Bridge checkpoints of the trained model and of random ones of other architectures, in float32."""
    return prepared.checkpoints


@pytest.fixture(scope="session")
def references(prepared: Prepared) -> dict[str, list[dict[str, Any]]]:
    """What Hugging Face's `generate` answers to PROMPTS: greedy, 32 tokens, float32."""
    return prepared.references


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Path], megatron_python: Path) -> Serve:
    """Build a repository for a checkpoint and serve it: `with serve("llama", "--num-gpus", "2") as serving`."""

    @contextlib.contextmanager
    def serving(name: str, *flags: str) -> Iterator[Serving]:
        repository = tmp_path_factory.mktemp(f"repository-{name}")
        build(checkpoints[name], name, repository, megatron_python, *flags)
        with serving_of(repository, name) as (server,):
            yield server

    return serving


@pytest.fixture(scope="session")
def llama(serve: Serve) -> Iterator[Serving]:
    """The trained model on one rank; tests that only ask share it."""
    with serve("llama", "--trtllm-alias") as serving:
        yield serving
