from pathlib import Path

import pytest

from trition_repo_gen.repository import gpu


@pytest.mark.parametrize(
    ("script", "size"),
    [
        ("echo '143771, 615'", 143156),
        ("echo '81559, 551'; echo '40960, 400'", 40560),
        ("echo '22731, [N/A]'", 22731),
        ("echo 'No devices were found'", None),
        ("true", None),
        ("echo '81559, 551'; exit 9", None),
    ],
)
def test_what_nvidia_smi_says(script: str, size: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.memory() == (None if size is None else size * 2**20)


def test_a_machine_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.memory() is None


def test_one_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nkill -STOP $$\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpu, "_TIMEOUT", 0.1)
    with pytest.raises(
        gpu.NoAnswerError, match=r"^nvidia-smi did not say within 0\.1 s what this machine's GPUs have$"
    ):
        gpu.memory()
