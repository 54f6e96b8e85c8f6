"""Which tritonserver is started."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from trition_repo_gen.errors import ServerError
from trition_repo_gen.server import find
from trition_repo_gen.server.find import find_tritonserver, wheel_server

EMPTY = {"PATH": "/nonexistent"}


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_flag_comes_first(tmp_path: Path) -> None:
    flag, variable, on_path = (program(tmp_path / name / "tritonserver") for name in ("flag", "variable", "path"))
    environment = {"TRITONSERVER": str(variable), "PATH": str(on_path.parent)}
    found = find_tritonserver(str(flag), environment)
    assert (found.path, found.source, found.from_wheel) == (flag, "--tritonserver", False)
    assert find_tritonserver(None, environment).path == variable
    del environment["TRITONSERVER"]
    found = find_tritonserver(None, environment)
    assert (found.path, found.source) == (on_path, "PATH")


def test_a_relative_flag_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin" / "tritonserver")
    monkeypatch.chdir(tmp_path)
    assert find_tritonserver("bin/tritonserver", EMPTY).path == tmp_path / "bin" / "tritonserver"


def test_the_container_comes_before_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "CONTAINER_SERVER", program(tmp_path / "opt" / "tritonserver"))
    assert find_tritonserver(None, EMPTY).path == tmp_path / "opt" / "tritonserver"


def test_the_wheel_comes_last_and_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "CONTAINER_SERVER", tmp_path / "nowhere")
    found = find_tritonserver(None, EMPTY)
    assert found.path == wheel_server()
    assert found.from_wheel
    script = "import sys; from trition_repo_gen.server.find import wheel_server; wheel_server(); print(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert "trition_repo_gen.server.find" in imported
    assert "pytriton" not in imported


def test_the_wheels_program_is_recognized_when_named() -> None:
    carried = wheel_server()
    assert carried is not None
    assert find_tritonserver(str(carried), EMPTY).from_wheel


def test_none_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "CONTAINER_SERVER", tmp_path / "nowhere")
    monkeypatch.setattr(find, "WHEEL", "a-wheel-that-nobody-has")
    with pytest.raises(ServerError, match=r"pip install 'trition-repo-gen\[triton\]'"):
        find_tritonserver(None, EMPTY)


@pytest.mark.parametrize("name", ["nowhere", ""])
def test_a_flag_that_names_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ServerError, match=r"^--tritonserver is '.*', which is not a file; write"):
        find_tritonserver(str(tmp_path / name), EMPTY)


def test_a_variable_that_names_no_program(tmp_path: Path) -> None:
    (tmp_path / "tritonserver").write_text("")
    with pytest.raises(ServerError, match=r"^the environment variable TRITONSERVER is '.*', which is not executable"):
        find_tritonserver(None, {"TRITONSERVER": str(tmp_path / "tritonserver")})
