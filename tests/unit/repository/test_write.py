import ctypes
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from trition_repo_gen.errors import RepositoryError
from trition_repo_gen.repository.render import CONFIG, MARK, Files, sign
from trition_repo_gen.repository.write import Written, compare, write


def files(version: int = 1, batch: int = 8) -> Files:
    return {
        CONFIG: sign(f"# {MARK} 1.0\nmax_batch_size: {batch}\n").encode(),
        PurePosixPath(f"{version}/model.py"): b"print('model')\n",
        PurePosixPath(f"{version}/runtime/a/b.py"): b"",
    }


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def put(folder: Path, content: Files, version: int = 1, *, force: bool = False) -> Written:
    return write(folder, version, content, force=force, check=lambda staged: None)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "repository" / "llama"
    if (tmp_path / "repository").is_dir():
        assert not list((tmp_path / "repository").glob(".trgen-*")), "a build leaves nothing behind"


def test_created_then_unchanged_then_updated(folder: Path) -> None:
    written = put(folder, files())
    assert written == Written("created", tuple(files()))
    assert tree(folder) == {str(path): content for path, content in files().items()}
    before = folder.stat().st_ino
    assert put(folder, files()) == Written("unchanged")
    assert folder.stat().st_ino == before
    assert put(folder, files(batch=16)) == Written("updated", (CONFIG,))
    assert b"16" in (folder / CONFIG).read_bytes()


def test_compare_writes_nothing(folder: Path) -> None:
    assert compare(folder, 1, files()).outcome == "created"
    assert not folder.exists()
    put(folder, files())
    assert compare(folder, 1, files(batch=16)).changed == (CONFIG,)
    assert b"16" not in (folder / CONFIG).read_bytes()


def test_a_file_that_is_too_many_goes(folder: Path) -> None:
    put(folder, files())
    (folder / "1" / "runtime" / "old.py").write_text("")
    assert put(folder, files()) == Written("updated", (PurePosixPath("1/runtime/old.py"),))
    assert not (folder / "1" / "runtime" / "old.py").exists()


def test_compiled_python_counts_for_nothing(folder: Path) -> None:
    put(folder, files())
    (folder / "1" / "__pycache__").mkdir()
    (folder / "1" / "__pycache__" / "model.pyc").write_bytes(b"compiled")
    assert put(folder, files()) == Written("unchanged")


def test_other_versions_and_other_files_stay(folder: Path) -> None:
    put(folder, files())
    (folder / "labels.txt").write_text("yes")
    (folder / "latest").symlink_to("1")
    assert put(folder, files(version=2), version=2).outcome == "updated"
    assert {path.name for path in folder.iterdir()} == {"1", "2", "config.pbtxt", "labels.txt", "latest"}
    assert tree(folder / "1") == tree(folder / "2")
    assert (folder / "latest").readlink() == Path("1")


def test_the_mode_is_the_users(folder: Path) -> None:
    mask = os.umask(0o027)
    try:
        put(folder, files())
    finally:
        os.umask(mask)
    assert folder.stat().st_mode & 0o777 == 0o750
    assert (folder / CONFIG).stat().st_mode & 0o777 == 0o640


def test_an_edited_config_is_kept_beside(folder: Path) -> None:
    put(folder, files())
    edited = (folder / CONFIG).read_text().replace("8", "12")
    (folder / CONFIG).write_text(edited)
    written = put(folder, files())
    assert (written.changed, written.edited) == ((CONFIG,), PurePosixPath("config.pbtxt.edited"))
    assert (folder / "config.pbtxt.edited").read_text() == edited
    assert (folder / CONFIG).read_bytes() == files()[CONFIG]


class TestSomebodyElsesModel:
    def test_is_not_replaced(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "config.pbtxt").write_text('backend: "onnxruntime"\n')
        with pytest.raises(RepositoryError, match=r"was not written by trgen; write --force to replace .* version 1"):
            put(folder, files())
        assert tree(folder) == {"config.pbtxt": b'backend: "onnxruntime"\n'}

    def test_is_replaced_by_force(self, folder: Path) -> None:
        (folder / "1").mkdir(parents=True)
        (folder / "1" / "model.onnx").write_bytes(b"onnx")
        assert put(folder, files(), force=True).outcome == "updated"
        assert (folder / CONFIG).read_bytes() == files()[CONFIG]

    def test_an_empty_folder_is_nobodys(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        assert put(folder, files()).outcome == "updated"


class TestFailure:
    def test_in_the_check_leaves_what_stood_there(self, folder: Path) -> None:
        def refuse(staged: Path) -> None:
            assert (staged / CONFIG).is_file()
            raise RepositoryError("no")

        put(folder, files())
        before = tree(folder)
        with pytest.raises(RepositoryError):
            write(folder, 1, files(batch=16), force=False, check=refuse)
        assert tree(folder) == before

    def test_of_the_disk_is_one_sentence(self, folder: Path) -> None:
        folder.parent.parent.joinpath("repository").write_text("a file")
        with pytest.raises(RepositoryError, match=r"cannot be written: File exists .*write another --model-repository"):
            put(folder, files())
        folder.parent.unlink()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_of_permission_is_one_sentence(self, folder: Path) -> None:
        folder.parent.mkdir(mode=0o500)
        with pytest.raises(RepositoryError, match="cannot be written: Permission denied"):
            put(folder, files())

    def test_while_another_build_writes(self, folder: Path) -> None:
        put(folder, files())
        other = os.open(folder.parent, os.O_RDONLY)
        try:
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(RepositoryError, match="Another trgen build is writing to"):
                put(folder, files(batch=16))
        finally:
            os.close(other)
        assert put(folder, files()) == Written("unchanged")

    def test_sigterm_waits_until_the_folder_is_whole(self, folder: Path) -> None:
        put(folder, files())
        program = (
            "import os, signal, sys; from pathlib import Path, PurePosixPath\n"
            "from trition_repo_gen.repository.write import write\n"
            "files = {PurePosixPath('config.pbtxt'): b'new'}\n"
            "term = lambda staged: os.kill(os.getpid(), signal.SIGTERM)\n"
            "write(Path(sys.argv[1]), 1, files, force=False, check=term)\n"
        )
        done = subprocess.run([sys.executable, "-c", program, str(folder)], check=False)
        assert done.returncode == -signal.SIGTERM
        assert tree(folder) == {"config.pbtxt": b"new"}

    def test_a_killed_build_leaves_the_old_model_and_the_next_one_cleans_up(self, folder: Path) -> None:
        put(folder, files())
        before = tree(folder)
        program = (
            "import os, sys; from pathlib import Path, PurePosixPath\n"
            "from trition_repo_gen.repository.write import write\n"
            "files = {PurePosixPath('config.pbtxt'): b'half'}\n"
            "write(Path(sys.argv[1]), 1, files, force=False, check=lambda staged: os._exit(9))\n"
        )
        assert subprocess.run([sys.executable, "-c", program, str(folder)], check=False).returncode == 9
        assert tree(folder) == before
        assert list(folder.parent.glob(".trgen-*"))
        assert put(folder, files()) == Written("unchanged")


class TestWithoutExchange:
    """Where the file system cannot swap two names in one step."""

    @pytest.fixture(autouse=True)
    def _old_kernel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())

    def test_a_model_is_replaced(self, folder: Path) -> None:
        put(folder, files())
        put(folder, files(batch=16))
        assert tree(folder) == {str(path): content for path, content in files(batch=16).items()}

    def test_a_build_killed_between_the_renames_is_undone(self, folder: Path) -> None:
        put(folder, files())
        folder.rename(folder.parent / ".trgen-llama-12345678-old")
        (folder.parent / ".trgen-llama-12345678").mkdir()
        assert put(folder, files()) == Written("unchanged")
