"""Real tritonserver, real ranks: servers of tiny models."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.serving import Serve, Serving, build, serving_of
from tests.models.prepared import Prepared


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
