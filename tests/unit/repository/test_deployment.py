from pathlib import Path

import pytest
from pydantic import ValidationError

from trition_repo_gen.errors import RepositoryError
from trition_repo_gen.repository.deployment import Deployment
from trition_repo_gen.runtime.common.settings import Settings


def deployment(**changes: object) -> Deployment:
    values = {"model_name": "llama", "model_repository": Path("models"), "settings": Settings(checkpoint="/c")}
    return Deployment.model_validate({**values, **changes})


@pytest.mark.parametrize("name", ["llama", "Llama-3.1_8B", "7b", "_x", "a" * 121])
def test_names_that_triton_takes(name: str) -> None:
    assert deployment(model_name=name).model_folder == Path("models") / name


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("", "model"),
        (".hidden", "hidden"),
        ("-x", "x"),
        ("my model", "my-model"),
        ("org/llama", "org-llama"),
        ("../llama", "llama"),
        ("llama\n", "llama"),
        ("größe", "gr-e"),
        ("a" * 122, "a" * 121),
    ],
)
def test_names_that_triton_would_not_take(name: str, instead: str) -> None:
    with pytest.raises(RepositoryError, match=rf"is no name for a Triton model.*write --model-name {instead}\."):
        deployment(model_name=name)


@pytest.mark.parametrize("changes", [{"model_version": 0}, {"max_batch_size": 0}, {"colour": 1}])
def test_values_out_of_range(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        deployment(**changes)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"default_priority": 2}, "--default-priority is 2, and --priority-levels 1"),
        ({"enable_chunked_prefill": True, "chunked_prefill_size": 255}, "is 255, but 256 sequences"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(RepositoryError, match=sentence):
        deployment(settings=Settings(checkpoint="/c", **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(("folder", "character"), [("my models", "' '"), ("modèles", "'è'"), ("a;b", "';'")])
def test_a_repository_whose_path_triton_cannot_read(tmp_path: Path, folder: str, character: str) -> None:
    with pytest.raises(RepositoryError, match=f"has {character}, which Triton's Python backend cannot read; write a"):
        deployment(model_repository=tmp_path / folder)
