import os
import pickle
import sys
from pathlib import Path

import pytest

from tests.files import build_file_tree, torch_index
from trition_repo_gen.checkpoints.index import shapes


def test_shapes_of_weights(tmp_path: Path) -> None:
    weights = torch_index.llama(torch_index.LLAMA_8B)
    build_file_tree(tmp_path, {".metadata": torch_index.index(weights)})
    assert shapes(tmp_path) == weights
    assert "torch" not in sys.modules


@pytest.mark.parametrize(
    "name",
    [
        "optimizer.state.exp_avg.decoder.layers.mlp.linear_fc1.weight",
        "chained_0.optimizer.distributed.dp_group_idx_0.gbuf_idx_0",
    ],
)
def test_what_training_keeps_is_left_out(tmp_path: Path, name: str) -> None:
    build_file_tree(
        tmp_path, {".metadata": torch_index.index({"embedding.word_embeddings.weight": (8, 4), name: (8, 4)})}
    )
    assert list(shapes(tmp_path)) == ["embedding.word_embeddings.weight"]


class _Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


def test_nothing_that_an_index_names_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".metadata").write_bytes(pickle.dumps(_Runs()))
    assert shapes(tmp_path) == {}
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x04relative_path", pickle.dumps({"a": 1}), pickle.dumps(_Runs)])
def test_one_that_cannot_be_read_says_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".metadata").write_bytes(content)
    assert shapes(tmp_path) == {}
    (tmp_path / ".metadata").unlink()
    assert shapes(tmp_path) == {}
