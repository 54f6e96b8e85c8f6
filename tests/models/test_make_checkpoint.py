"""What examples/make_checkpoint.py says about its arguments; converting itself needs the ranks' environment."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "make_checkpoint.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def test_a_mistake_is_one_sentence_and_code_2(tmp_path: Path, model: Path) -> None:
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
        result = run(*arguments)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
        assert said in result.stderr
    assert (other / "thesis.txt").read_text() == "mine"


def test_a_complete_checkpoint_is_left_alone(tmp_path: Path, model: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "latest_checkpointed_iteration.txt").write_text("0")
    result = run(model, out)
    assert result.returncode == 0
    assert "complete already" in result.stdout
