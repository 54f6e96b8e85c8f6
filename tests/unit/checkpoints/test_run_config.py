from pathlib import Path

import pytest

from trition_repo_gen.checkpoints import run_config
from trition_repo_gen.errors import CheckpointError


def write(folder: Path, text: str) -> Path:
    file = folder / "run_config.yaml"
    file.write_text(text)
    return file


def test_unknown_tags_become_plain_data(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "model:\n"
        "  window: !!python/tuple [63, 0]\n"
        "  dtype: !!python/name:torch.bfloat16 ''\n"
        "  provider: !Custom {heads: 4}\n"
        "  activation: !!python/object/apply:os.system ['touch owned']\n",
    )
    assert run_config.load(file)["model"] == {
        "window": [63, 0],
        "dtype": "",
        "provider": {"heads": 4},
        "activation": ["touch owned"],
    }
    assert not Path("owned").exists()


@pytest.mark.parametrize("text", ["", "model:\n  a: [1,\n", "just text", "model: 3\n"])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(CheckpointError, match=r"run_config.yaml .* damaged; copy or save it again"):
        run_config.load(write(tmp_path, text))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"_call_": False, "_target_": "torch.bfloat16"}, "bfloat16"),
        ("torch.float16", "float16"),
        ("float32", "float32"),
        (None, ""),
    ],
)
def test_target(value: object, name: str) -> None:
    assert run_config.target(value) == name
