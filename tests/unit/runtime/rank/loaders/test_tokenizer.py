from pathlib import Path

import pytest

from trition_repo_gen.runtime.common.errors import LoadError
from trition_repo_gen.runtime.rank.loaders import tokenizer


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint with a tokenizer of its own, saved from a folder that is gone."""
    folder = tmp_path / "iter_0000000"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    (folder / "run_config.yaml").write_text("tokenizer:\n  tokenizer_model: /gone/tokenizer\n")
    return folder


def test_the_setting_comes_first(checkpoint: Path) -> None:
    assert tokenizer.find(checkpoint, "org/name") == "org/name"


def test_the_checkpoints_own_comes_before_the_saved_path(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "run_config.yaml").write_text(f"tokenizer:\n  tokenizer_model: {tmp_path}\n")
    assert tokenizer.find(checkpoint, "") == str(checkpoint / "tokenizer")


@pytest.mark.parametrize("name", ["gpt2", "org/name"])
def test_a_hubs_name_serves_where_the_folder_is_empty(name: str, checkpoint: Path) -> None:
    (checkpoint / "tokenizer" / "tokenizer.json").unlink()
    (checkpoint / "run_config.yaml").write_text(f"tokenizer:\n  tokenizer_model: {name}\n")
    assert tokenizer.find(checkpoint, "") == name


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ("tokenizer:\n  tokenizer_model: /gone/tokenizer\n", "the one it was saved with, /gone/tokenizer, is gone"),
        ("tokenizer:\n  tokenizer_model: ./gone\n", "the one it was saved with, ./gone, is gone"),
        ("tokenizer: null\n", "names none"),
        ("", "names none"),
    ],
)
def test_a_checkpoint_without_tokenizer_is_refused(config: str, what: str, checkpoint: Path) -> None:
    (checkpoint / "tokenizer" / "tokenizer.json").unlink()
    (checkpoint / "run_config.yaml").write_text(config)
    with pytest.raises(LoadError, match=f"holds no tokenizer and {what}; set the parameter TOKENIZER"):
        tokenizer.find(checkpoint, "")
