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
from trition_repo_gen.repository import write as module
from trition_repo_gen.repository.render import CONFIG, MARK, Files, sign
from trition_repo_gen.repository.write import Folder, Written, write

MODEL = """
import os, signal, sys
from pathlib import Path, PurePosixPath
from trition_repo_gen.repository.write import Folder, write

def put(content, check):
    files = {PurePosixPath('config.pbtxt'): content}
    write([Folder(path=Path(sys.argv[1]), version=1, files=files, check=check)], force=False)
"""
"""The beginning of a program that writes a model's folder."""


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
    wanted = Folder(path=folder, version=version, files=content, check=lambda staged: None)
    (written,) = write([wanted], force=force)
    return written


def compare(folder: Path, version: int, content: Files) -> Written:
    wanted = Folder(path=folder, version=version, files=content, check=lambda staged: None)
    (written,) = module.compare([wanted], force=False)
    return written


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


def test_an_earlier_edit_is_kept_as_well(folder: Path) -> None:
    put(folder, files())
    for batch in (12, 13, 14):
        (folder / CONFIG).write_text(f"max_batch_size: {batch} # {MARK}")
        put(folder, files())
    kept = [folder / name for name in ("config.pbtxt.edited", "config.pbtxt.edited.2", "config.pbtxt.edited.3")]
    assert [path.read_text()[16:18] for path in kept] == ["12", "13", "14"]


class TestSeveralFolders:
    def test_are_all_written_or_none(self, folder: Path) -> None:
        def refuse(staged: Path) -> None:
            raise RepositoryError("no")

        put(folder, files())
        before = tree(folder.parent)
        model = Folder(path=folder, version=1, files=files(batch=16), check=lambda staged: None)
        twin = Folder(path=folder.with_name("llama_stream"), version=1, files=files(), check=refuse)
        with pytest.raises(RepositoryError, match=r"^no$"):
            write([model, twin], [folder], force=False)
        assert tree(folder.parent) == before

    def test_and_then_the_unwanted_ones_go(self, folder: Path, tmp_path: Path) -> None:
        put(folder, files())
        put(folder.with_name("llama_stream"), files())
        put(tmp_path / "elsewhere", files())
        folder.with_name("llama_trtllm").symlink_to(tmp_path / "elsewhere")
        unwanted = [folder.with_name("llama_stream"), folder.with_name("llama_trtllm")]
        model = Folder(path=folder, version=1, files=files(batch=16), check=lambda staged: None)
        assert write([model], unwanted, force=False) == [Written("updated", (CONFIG,))]
        assert [path.name for path in folder.parent.iterdir()] == ["llama"]
        assert tree(tmp_path / "elsewhere") == {str(path): content for path, content in files().items()}


class TestASymbolicLink:
    @pytest.fixture
    def target(self, folder: Path, tmp_path: Path) -> Path:
        """Where the model's folder lies, in another one than the repository."""
        folder.parent.mkdir()
        folder.symlink_to(tmp_path / "disk" / "model")
        return tmp_path / "disk" / "model"

    def test_stays_and_what_it_leads_to_is_replaced(self, folder: Path, target: Path) -> None:
        target.mkdir(parents=True)
        put(folder, files())
        assert put(folder, files(batch=16)) == Written("updated", (CONFIG,))
        assert folder.readlink() == target
        assert tree(target) == {str(path): content for path, content in files(batch=16).items()}
        assert [path.name for path in target.parent.iterdir()] == ["model"]

    def test_may_lead_to_its_neighbour(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.parent.mkdir()
        folder.with_name("neighbour").mkdir()
        folder.symlink_to("neighbour")
        monkeypatch.chdir(folder.parent.parent)
        assert put(Path("repository/llama"), files()).outcome == "updated"
        assert sorted(path.name for path in folder.parent.iterdir()) == ["llama", "neighbour"]

    @pytest.mark.parametrize("force", [False, True])
    def test_that_leads_nowhere_is_refused(self, folder: Path, target: Path, force: bool) -> None:
        with pytest.raises(RepositoryError, match=rf"llama is a symbolic link to {target}, which is not there; make"):
            put(folder, files(), force=force)
        assert folder.is_symlink()
        assert not target.parent.exists()

    def test_that_an_older_build_left_behind_goes(self, folder: Path, target: Path) -> None:
        target.mkdir(parents=True)
        (target / "labels.txt").write_text("yes")
        folder.rename(folder.with_name(".trgen-llama-12345678"))
        assert put(folder, files()).outcome == "created"
        assert tree(target) == {"labels.txt": b"yes"}


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
            write([Folder(path=folder, version=1, files=files(batch=16), check=refuse)], force=False)
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
        program = f"{MODEL}\nput(b'new', lambda staged: os.kill(os.getpid(), signal.SIGTERM))"
        done = subprocess.run([sys.executable, "-c", program, str(folder)], check=False)
        assert done.returncode == -signal.SIGTERM
        assert tree(folder) == {"config.pbtxt": b"new"}

    def test_a_killed_build_leaves_the_old_model_and_the_next_one_cleans_up(self, folder: Path) -> None:
        put(folder, files())
        before = tree(folder)
        program = f"{MODEL}\nput(b'half', lambda staged: os._exit(9))"
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
