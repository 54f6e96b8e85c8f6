"""What a user may not read or write ends in a sentence, whichever command comes across it."""

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.cli.test_build import trgen
from trition_repo_gen.server import free_ports

Make = Callable[..., Path]

_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2  # linux/capability.h


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Capabilities(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@pytest.fixture
def _like_any_user() -> Iterator[None]:
    """Let permissions bind this thread even where root runs the tests: see capset(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, held = _Header(0x20080522, 0), (_Capabilities * 2)()
    assert libc.capget(ctypes.byref(header), held) == 0
    before = held[0].effective
    held[0].effective = before & ~(1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH)
    assert libc.capset(ctypes.byref(header), held) == 0
    yield
    held[0].effective = before
    assert libc.capset(ctypes.byref(header), held) == 0


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A folder whose entries nobody may look at."""
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o600)
    yield folder
    folder.chmod(0o700)


@pytest.fixture
def words(make_checkpoint: Make, tmp_path: Path) -> list[object]:
    """A build that works."""
    repository = tmp_path / "models"
    return ["build", "-mc", make_checkpoint(), "-tmn", "m", "--model-repository", repository, "--rank-python", "/no/it"]


@pytest.mark.usefixtures("_like_any_user")
@pytest.mark.parametrize("flags", [[], ["--no-stream"], ["--dry-run"], ["--dry-run", "--no-stream"]])
def test_a_repository_out_of_reach(
    words: list[object], locked: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    assert trgen(*words, "--model-repository", locked / "models", *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"trgen: {locked}/models cannot be written: Permission denied ({locked}/models")
    assert error.endswith("; write another --model-repository, or free or grant what is missing.\n")


@pytest.mark.usefixtures("_like_any_user")
def test_a_twin_that_may_not_be_removed(
    words: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trgen(*words) == 0
    (tmp_path / "models").chmod(0o500)
    assert trgen(*words, "--no-stream") == 2
    (tmp_path / "models").chmod(0o700)
    assert "models cannot be written: Permission denied (" in capsys.readouterr().err
    assert (tmp_path / "models" / "m_stream" / "config.pbtxt").is_file()


@pytest.mark.usefixtures("_like_any_user")
def test_a_config_that_may_not_be_read(words: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trgen(*words) == 0
    (tmp_path / "models" / "m" / "config.pbtxt").chmod(0o200)
    assert trgen(*words) == 2
    assert "models cannot be written: Permission denied (" in capsys.readouterr().err


@pytest.mark.usefixtures("_like_any_user")
@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--tokenizer", "trgen: The tokenizer {0}/x cannot be read: Permission denied ({0}/x); grant this user access"),
        (
            "--processor-name",
            "trgen: --processor-name {0}/x cannot be read: Permission denied ({0}/x); grant this user",
        ),
    ],
)
def test_a_folder_out_of_reach(
    words: list[object], locked: Path, capsys: pytest.CaptureFixture[str], flag: str, sentence: str
) -> None:
    assert trgen(*words, flag, locked / "x") == 2
    assert capsys.readouterr().err.startswith(sentence.format(locked))


@pytest.mark.usefixtures("_like_any_user")
@pytest.mark.parametrize("name", ["locked", "locked/models"])
def test_a_repository_that_cannot_be_served(
    locked: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    locked.chmod(0o100 if name == "locked" else 0o600)
    monkeypatch.chdir(locked.parent)
    assert trgen("serve", "--model-repository", name, "--no-rest") == 2
    assert capsys.readouterr().err == (
        f"trgen: The model repository '{name}' cannot be read: Permission denied ({name}); "
        "grant this user access, or name another.\n"
    )


@pytest.mark.usefixtures("_like_any_user")
def test_a_tritonserver_out_of_reach(
    words: list[object], locked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trgen(*words) == 0
    http, grpc, metrics = free_ports(3)
    ports = ["-tp", http, "--grpc-port", grpc, "--metrics-port", metrics, "-tha", "127.0.0.1"]
    program = locked / "tritonserver"
    assert (
        trgen("serve", "--model-repository", tmp_path / "models", "--no-rest", *ports, "--tritonserver", program) == 2
    )
    assert capsys.readouterr().err == (
        f"trgen: --tritonserver is '{program}', which cannot be read: Permission denied ({program}); "
        "grant this user access, or write another path there.\n"
    )
