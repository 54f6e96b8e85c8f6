"""Real tritonserver, real ranks: checkpoints of tiny models, and servers of them."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.serving import PROMPTS, READY_SECONDS, Asker, Serve, Serving, build, run

from trition_repo_gen.server import free_ports, running_server

RANDOM_MODELS = ("qwen2", "qwen3", "qwen3moe", "deepseekv3")


@pytest.fixture(scope="session")
def hugging_face_models(
    tmp_path_factory: pytest.TempPathFactory, megatron_python: Path, checkout: Path, tiny_llama: Path
) -> dict[str, Path]:
    """Folders of Hugging Face models: the trained one, and random ones of other architectures."""
    folder = tmp_path_factory.mktemp("hugging_face")
    run([megatron_python, checkout / "tests/models/random_models.py", folder, *RANDOM_MODELS])
    return {"llama": tiny_llama} | {name: folder / name for name in RANDOM_MODELS}


@pytest.fixture(scope="session")
def checkpoints(
    tmp_path_factory: pytest.TempPathFactory,
    megatron_python: Path,
    checkout: Path,
    hugging_face_models: dict[str, Path],
) -> dict[str, Path]:
    """Megatron-Bridge checkpoints of these models, in float32."""
    folder = tmp_path_factory.mktemp("checkpoints")
    pairs = [part for name, source in hugging_face_models.items() for part in (source, folder / name)]
    run([megatron_python, checkout / "examples/make_checkpoint.py", "--dtype", "float32", *pairs])
    return {name: folder / name for name in hugging_face_models}


@pytest.fixture(scope="session")
def references(
    tmp_path_factory: pytest.TempPathFactory,
    megatron_python: Path,
    checkout: Path,
    hugging_face_models: dict[str, Path],
) -> dict[str, list[dict[str, Any]]]:
    """What Hugging Face's `generate` answers to PROMPTS: greedy, 32 tokens, float32."""
    folder = tmp_path_factory.mktemp("references")
    prompts = folder / "prompts.json"
    prompts.write_text(json.dumps(PROMPTS))
    script = checkout / "tests/models/reference.py"
    return {
        name: json.loads(run([megatron_python, script, source, prompts, "--max-new-tokens", "32", "--top-n", "3"]))
        for name, source in hugging_face_models.items()
    }


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Path], megatron_python: Path) -> Serve:
    """Build a repository for a checkpoint and serve it: `with serve("llama", "--num-gpus", "2") as serving`."""

    @contextlib.contextmanager
    def serving(name: str, *flags: str) -> Iterator[Serving]:
        repository = tmp_path_factory.mktemp(f"repository-{name}")
        build(checkpoints[name], name, repository, megatron_python, *flags)
        http, grpc, metrics = free_ports(3)
        log: list[str] = []
        listeners: list[Callable[[str], None]] = [log.append]

        def on_line(line: str) -> None:
            for listener in list(listeners):
                listener(line)

        with running_server(
            repository,
            http_port=http,
            grpc_port=grpc,
            metrics_port=metrics,
            ready_within=READY_SECONDS,
            on_line=on_line,
        ) as server:
            yield Serving(server, name, Asker(f"127.0.0.1:{http}", name), log, listeners)

    return serving


@pytest.fixture(scope="session")
def llama(serve: Serve) -> Iterator[Serving]:
    """The trained model on one rank; tests that only ask share it."""
    with serve("llama") as serving:
        yield serving
