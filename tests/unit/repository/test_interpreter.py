from pathlib import Path

import pytest

from tests.files import nemo2 as nemo2_files
from tests.files.environments import MEGATRON, NEMO, make_environment
from trition_repo_gen.checkpoints import Checkpoint, read
from trition_repo_gen.errors import RepositoryError
from trition_repo_gen.repository import interpreter
from trition_repo_gen.repository.interpreter import check, choose
from trition_repo_gen.repository.options import BuildOptions


@pytest.fixture
def nemo2(tmp_path: Path) -> Checkpoint:
    return read(nemo2_files.write(tmp_path / "qwen"), multimodal=True)


@pytest.fixture
def bridge(make_checkpoint: object) -> Checkpoint:
    return read(make_checkpoint())  # type: ignore[operator]


def test_the_one_that_is_chosen(nemo2: Checkpoint, bridge: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    options = BuildOptions(model_name="m")
    for name in ("TRGEN_NEMO_PYTHON", "TRGEN_RANK_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    assert (choose(options, nemo2), choose(options, bridge)) == ("python3", "python3")
    monkeypatch.setenv("TRGEN_RANK_PYTHON", "/megatron/python")
    assert (choose(options, nemo2), choose(options, bridge)) == ("/megatron/python", "/megatron/python")
    monkeypatch.setenv("TRGEN_NEMO_PYTHON", "/nemo/python")
    assert (choose(options, nemo2), choose(options, bridge)) == ("/nemo/python", "/megatron/python")
    given = BuildOptions(model_name="m", rank_python="/other/python")
    assert (choose(given, nemo2), choose(given, bridge)) == ("/other/python", "/other/python")


def test_one_that_has_what_it_needs(nemo2: Checkpoint, bridge: Checkpoint, tmp_path: Path) -> None:
    assert check(str(make_environment(tmp_path / "nemo", NEMO)), nemo2) == []
    assert check(str(make_environment(tmp_path / "megatron", MEGATRON)), bridge) == []


def test_one_that_lacks_something(nemo2: Checkpoint, bridge: Checkpoint, tmp_path: Path) -> None:
    megatron = make_environment(tmp_path / "megatron", MEGATRON)
    with pytest.raises(
        RepositoryError,
        match=r"megatron/bin/python, has no nemo-toolkit.* trgen environment --nemo FOLDER,",
    ):
        check(str(megatron), nemo2)
    with pytest.raises(RepositoryError, match=r"has no megatron-bridge, so .* trgen environment FOLDER \("):
        check(str(make_environment(tmp_path / "nemo", NEMO)), bridge)


def test_a_nemo_that_has_no_multimodal_models_any_more(nemo2: Checkpoint, tmp_path: Path) -> None:
    newer = make_environment(tmp_path / "nemo3", {**NEMO, "nemo-toolkit": "3.0.0"})
    with pytest.raises(RepositoryError, match=r"has no nemo-toolkit 2 \(it has 3\.0\.0\)"):
        check(str(newer), nemo2)


def test_the_default_may_be_another_one_where_it_serves(
    nemo2: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = make_environment(tmp_path / "bare", {})
    python.with_name("python3").symlink_to(python)
    monkeypatch.setenv("PATH", str(python.parent), prepend=":")
    (note,) = check("python3", nemo2)
    assert "python3, has no nemo-toolkit, so it" in note
    assert note.endswith("or RANK_PYTHON in config.pbtxt.")


def test_one_of_another_machine(nemo2: Checkpoint) -> None:
    (note,) = check("/nowhere/python", nemo2)
    assert "/nowhere/python, is not on this machine; the machine that serves needs it" in note


def test_what_is_no_python(nemo2: Checkpoint, tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    with pytest.raises(RepositoryError, match="does not run as a Python"):
        check(str(script), nemo2)


def test_one_that_takes_too_long(nemo2: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nkill -STOP $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(interpreter, "_SECONDS", 0.1)
    with pytest.raises(RepositoryError, match=r"python did not list its packages within 0\.1 s; try again, or"):
        check(str(script), nemo2)
