"""The ranks' environment from a lock file: a tiny lock and a local wheel, with uv and with pip, without a network."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trition_repo_gen import environments
from trition_repo_gen.cli import app
from trition_repo_gen.environments import PYTHON_VERSION, extension_script, install, lock_file
from trition_repo_gen.errors import InstallError

METADATA = "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one wheel."""
    folder = tmp_path_factory.mktemp("wheels")
    files = {"tiny.py": "x = 1\n", "tiny-1.0.dist-info/METADATA": METADATA, "tiny-1.0.dist-info/WHEEL": WHEEL}
    files["tiny-1.0.dist-info/RECORD"] = "".join(f"{name},,\n" for name in (*files, "tiny-1.0.dist-info/RECORD"))
    with zipfile.ZipFile(folder / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return folder


@pytest.fixture
def lock(wheels: Path, tmp_path: Path) -> Path:
    """A lock file that lists the wheel."""
    digest = hashlib.sha256((wheels / "tiny-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    path = tmp_path / "tiny.txt"
    path.write_text(f"tiny==1.0 \\\n    --hash=sha256:{digest}\n")
    return path


@pytest.fixture(params=["uv", "pip"])
def installer(request: pytest.FixtureRequest, checkout: Path) -> str | None:
    """Path of uv; None for pip."""
    return str(checkout / ".uv/bin/uv") if request.param == "uv" else None


def offline(wheels: Path) -> list[str]:
    return ["--no-index", "--find-links", str(wheels)]


def test_what_the_lock_lists_is_installed_and_compiled(
    wheels: Path, lock: Path, installer: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    steps: list[str] = []
    folder = tmp_path / "new" / "ranks"
    python = install(folder, lock, uv=installer, options=offline(wheels), report=steps.append)
    assert python == folder / "bin/python"
    printed = subprocess.check_output([python, "-c", "import sys, tiny; print(tiny.x, sys.prefix)"], text=True)
    assert printed == f"1 {folder}\n"
    assert list(folder.glob("lib/python3.*/site-packages/__pycache__/tiny.*.pyc"))
    assert steps == [f"tiny.txt into {folder}, with {'uv' if installer else 'pip'}"]


def test_an_environment_is_replaced_only_if_that_is_asked_for(
    wheels: Path, lock: Path, installer: str | None, tmp_path: Path
) -> None:
    folder = tmp_path / "ranks"
    folder.mkdir()
    (folder / "pyvenv.cfg").touch()
    (folder / "old").touch()
    with pytest.raises(InstallError, match=r"is a virtual environment already; write --force to replace it"):
        install(folder, lock, uv=installer, options=offline(wheels))
    assert (folder / "old").exists()
    install(folder, lock, uv=installer, options=offline(wheels), force=True)
    assert not (folder / "old").exists()


@pytest.mark.parametrize("force", [False, True])
def test_other_files_are_never_replaced(lock: Path, tmp_path: Path, force: bool) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").touch()
    with pytest.raises(InstallError, match="mine has other files; write a folder that is empty"):
        install(tmp_path / "mine", lock, force=force)
    with pytest.raises(InstallError, match=r"tiny\.txt has other files"):
        install(lock, lock, force=force)
    assert (tmp_path / "mine" / "thesis").exists()


def test_a_package_that_is_another_one(
    wheels: Path, lock: Path, installer: str | None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lock.write_text("tiny==1.0 --hash=sha256:" + "0" * 64)
    with pytest.raises(InstallError, match=r"ended with exit code \d+, so .*ranks is not complete; .* with --force"):
        install(tmp_path / "ranks", lock, uv=installer, options=offline(wheels))
    assert "hash" in capfd.readouterr().err.lower()


def test_a_python_of_another_version(lock: Path, tmp_path: Path) -> None:
    older = tmp_path / "python3.9"
    older.write_text("#!/bin/sh\necho 3 9 /usr/bin/python3.9\n")
    older.chmod(0o755)
    wanted = ".".join(map(str, PYTHON_VERSION))
    with pytest.raises(InstallError, match=rf"is Python 3\.9, and the locks are for {wanted}; write --python"):
        install(tmp_path / "ranks", lock, python=str(older))
    with pytest.raises(InstallError, match="/nowhere does not run as a Python; write --python"):
        install(tmp_path / "ranks", lock, python="/nowhere")
    assert not (tmp_path / "ranks").exists()


def test_the_locks_of_a_checkout(checkout: Path) -> None:
    assert lock_file() == checkout / "locks/megatron.txt"
    assert lock_file(gpu=True) == checkout / "locks/megatron-gpu.txt"
    assert lock_file(nemo=True) == lock_file(nemo=True, gpu=True) == checkout / "locks/nemo.txt"
    assert all(lock_file(gpu=gpu, nemo=nemo).is_file() for gpu in (False, True) for nemo in (False, True))
    assert extension_script().is_file()


def test_uv_is_found_beside_python_and_on_the_path(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "env" / "python"))
    assert environments.find_uv() is None
    uv = tmp_path / "env" / "uv"
    uv.parent.mkdir()
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    assert environments.find_uv() == str(uv)
    monkeypatch.setenv("PATH", str(checkout / ".uv/bin"))
    assert environments.find_uv() == str(checkout / ".uv/bin/uv")


@pytest.mark.parametrize("uses_uv", [True, False])
def test_the_command(
    wheels: Path, lock: Path, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uses_uv: bool
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(wheels))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setattr(environments, "lock_file", lambda *, gpu, nemo: lock)
    monkeypatch.setattr(environments, "find_uv", lambda: str(checkout / ".uv/bin/uv") if uses_uv else None)
    folder = tmp_path / "my ranks"
    result = CliRunner().invoke(app, ["environment", "--gpu", str(folder)])
    assert result.exit_code == 0, result.output
    assert f"installed: {folder}\n" in result.stdout
    assert "note: Transformer Engine's extension is published as source only" in result.stdout
    assert result.stdout.endswith(f"next: trgen build --rank-python '{folder}/bin/python' …\n")
    assert subprocess.run([folder / "bin/python", "-c", "import tiny"], check=False).returncode == 0
    again = CliRunner().invoke(app, ["environment", str(folder)])
    assert isinstance(again.exception, InstallError)
