"""A deployment to render, and a function that renders it."""

from pathlib import Path

import pytest

from trition_repo_gen.repository.deployment import Deployment
from trition_repo_gen.runtime.common.settings import Settings


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    settings = Settings(checkpoint='/models/a "b" \\ c/ü\n/iter_0000000', tensor_parallel_size=2, num_gpus=2)
    return Deployment(
        model_name="llama",
        model_version=3,
        model_repository=tmp_path / "repository",
        settings=settings,
    )
