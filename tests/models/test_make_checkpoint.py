"""What the scripts that make checkpoints say about their arguments; converting needs the ranks' environments."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
WRITTEN_LAST = {
    "make_checkpoint.py": "latest_checkpointed_iteration.txt",
    "make_nemo_checkpoint.py": "context/io.json",
}


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [sys.executable, EXAMPLES / script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


@pytest.mark.parametrize("script", WRITTEN_LAST)
def test_a_mistake_is_one_sentence_and_code_2(script: str, tmp_path: Path, model: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    for arguments, said in (
        ((model,), "has no partner"),
        ((tmp_path / "absent", tmp_path / "out"), "holds no config.json"),
        ((model, other), "holds other files"),
        ((model, other / "thesis.txt"), "is a file"),
        ((model, tmp_path / "out", model, tmp_path / "out"), "is named twice"),
    ):
        result = run(script, *arguments)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
        assert said in result.stderr
    assert (other / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("script", WRITTEN_LAST)
def test_a_complete_checkpoint_is_left_alone(script: str, tmp_path: Path, model: Path) -> None:
    last = tmp_path / "out" / WRITTEN_LAST[script]
    last.parent.mkdir(parents=True)
    last.write_text("0")
    result = run(script, model, tmp_path / "out")
    assert result.returncode == 0
    assert "complete already" in result.stdout
