import re
from pathlib import Path

import pytest

from trition_repo_gen.checkpoints import read
from trition_repo_gen.errors import CheckpointError


def hugging_face(path: Path) -> Path:
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama"}')
    (path / "model-00001-of-00002.safetensors").write_bytes(b"w")
    return path


def adapter(path: Path) -> Path:
    path.mkdir()
    (path / "adapter_config.json").write_text("{}")
    return path


def nemo2(path: Path) -> Path:
    for name in ("context", "weights"):
        (path / name).mkdir(parents=True)
    (path / "weights" / ".metadata").write_bytes(b"index")
    return path


def nemo1(path: Path) -> Path:
    path = path.with_suffix(".nemo")
    path.write_bytes(b"tar")
    return path


def legacy_megatron(path: Path) -> Path:
    (path / "iter_0000100" / "mp_rank_00").mkdir(parents=True)
    (path / "latest_checkpointed_iteration.txt").write_text("100")
    return path


def distributed_megatron(path: Path) -> Path:
    folder = path / "iter_0000100"
    folder.mkdir(parents=True)
    for name in ("common.pt", ".metadata", "__0_0.distcp"):
        (folder / name).write_bytes(b"x")
    return path


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (hugging_face, "is a Hugging Face model; convert it with Megatron-Bridge's AutoBridge.import_ckpt("),
        (adapter, "is a Hugging Face adapter; merge it into its base model"),
        (nemo2, "is a NeMo 2.0 checkpoint; write --multimodal --nemo-checkpoint"),
        (nemo1, "is a NeMo 1.0 archive; convert it"),
        (legacy_megatron, "is a Megatron-LM checkpoint with one mp_rank file per rank; save it with --ckpt-format"),
        (distributed_megatron, "is a Megatron-LM checkpoint without run_config.yaml; load it with Megatron-Bridge's"),
    ],
)
def test_another_kind_is_named_with_what_to_do(tmp_path: Path, make: object, sentence: str) -> None:
    path = make(tmp_path / "other")  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=re.escape(sentence)) as refusal:
        read(path)
    assert str(path) in str(refusal.value)
    assert str(refusal.value).endswith(".")


def test_the_weights_of_nemo2_are_known_by_their_parent(tmp_path: Path) -> None:
    path = nemo2(tmp_path / "qwen")
    with pytest.raises(CheckpointError, match=r"qwen is a NeMo 2\.0 checkpoint"):
        read(path / "weights")


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"model\.pt is a file; write the checkpoint's folder"):
        read(tmp_path / "model.pt")


def test_an_empty_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no checkpoint: it has neither"):
        read(tmp_path)
