"""Puts a rendered model folder in place: all of it or nothing, also when the process is killed."""

import ctypes
import fcntl
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from trition_repo_gen.errors import RepositoryError
from trition_repo_gen.repository.render import CONFIG, MARK, Files, is_edited

# Folders that a build makes in the repository while it works start with this; a killed build leaves one behind, and
# the next build removes it.
_STAGING = ".trgen-"


@dataclass(frozen=True)
class Written:
    """What happened to the model's folder, and which files differ from before, relative to it."""

    outcome: Literal["created", "updated", "unchanged"]
    changed: tuple[PurePosixPath, ...] = ()
    edited: PurePosixPath | None = None
    """Where a config.pbtxt that had been edited by hand is kept."""


def compare(folder: Path, version: int, files: Files) -> Written:
    """Return what writing `files` to the model's folder would do, byte by byte; nothing is written."""
    if not folder.exists():
        return Written("created", tuple(files))
    changed = [path for path, content in files.items() if _content(folder / path) != content]
    changed += sorted(_files_below(folder, str(version)) - files.keys())
    if not changed:
        return Written("unchanged")
    config = _content(folder / CONFIG)
    edited = CONFIG in changed and config is not None and is_edited(config.decode(errors="replace"))
    return Written("updated", tuple(changed), PurePosixPath(f"{CONFIG}.edited") if edited else None)


def write(folder: Path, version: int, files: Files, *, force: bool, check: Callable[[Path], None]) -> Written:
    """Replace a model's folder by one with `files`; what else lies there (other versions, labels …) is kept.

    The new folder is built beside the old one, read back by `check`, and exchanged with it in one step.

    Raises:
        RepositoryError: the folder was not written by trgen and `force` is off, or the disk refuses.
    """
    repository = folder.parent
    refuse_foreign(folder, version, force=force)
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with _locked(repository), _undisturbed():
            _remove_leftovers(repository)
            written = compare(folder, version, files)
            if written.outcome != "unchanged":
                _replace(folder, version, files, written.edited, check)
            return written
    except OSError as error:
        raise RepositoryError(
            f"{folder} cannot be written: {error.strerror or error} ({error.filename or repository}); "
            "write another --model-repository, or free or grant what is missing."
        ) from error


def refuse_foreign(folder: Path, version: int, *, force: bool) -> None:
    """Do nothing if the folder may be written.

    Raises:
        RepositoryError: it was not written by trgen and `force` is off.
    """
    if folder.exists() and not force and not _is_ours(folder):
        raise RepositoryError(
            f"{folder} was not written by trgen; write --force to replace its config.pbtxt and version {version}, "
            "or another --model-name."
        )


def remove(folder: Path) -> bool:
    """Remove a model's folder that trgen wrote; return whether there was one."""
    if not (folder / CONFIG).exists() or not _is_ours(folder):
        return False
    with _locked(folder.parent), _undisturbed():
        aside = folder.with_name(f"{_STAGING}{folder.name}-{secrets.token_hex(4)}")
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    return True


def _replace(
    folder: Path, version: int, files: Files, edited: PurePosixPath | None, check: Callable[[Path], None]
) -> None:
    staged = folder.parent / f"{_STAGING}{folder.name}-{secrets.token_hex(4)}"
    staged.mkdir()
    try:
        if folder.exists():
            _copy_rest(folder, staged, {str(CONFIG), str(version)})
            if edited is not None:
                shutil.copy2(folder / CONFIG, staged / edited)
        for path, content in files.items():
            target = staged / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        check(staged)
        if folder.exists():
            _exchange(staged, folder)
        else:
            staged.rename(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _copy_rest(old: Path, new: Path, without: set[str]) -> None:
    for path in old.iterdir():
        if path.name in without:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, new / path.name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(path, new / path.name, follow_symlinks=False)


def _exchange(a: Path, b: Path) -> None:
    """Swap two folders: in one step where the kernel and the file system can, else by way of a third name."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    at_cwd, rename_exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE: see renameat2(2)
    if renameat2 and renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), rename_exchange) == 0:
        return
    aside = a.with_name(a.name + "-old")
    b.rename(aside)
    try:
        a.rename(b)
    except BaseException:
        aside.rename(b)
        raise
    aside.rename(a)


def _is_ours(folder: Path) -> bool:
    config = folder / "config.pbtxt"
    try:
        with config.open(errors="replace") as lines:
            return MARK in lines.readline()
    except OSError:
        # An empty folder is nobody's work.
        return folder.is_dir() and not any(folder.iterdir())


@contextmanager
def _locked(repository: Path) -> Iterator[None]:
    """Hold the repository against other builds; the lock dies with the process."""
    descriptor = os.open(repository, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RepositoryError(
                f"Another trgen build is writing to {repository}; wait for it, or write another --model-repository."
            ) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Put off Ctrl-C and SIGTERM: a folder left by a build that they ended would keep tritonserver from starting."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _remove_leftovers(repository: Path) -> None:
    for path in repository.glob(f"{_STAGING}*"):
        # A build that died between the two renames of `_exchange` left the old folder under its third name.
        if path.name.endswith("-old"):
            name = path.name.removeprefix(_STAGING).rsplit("-", 2)[0]
            if not (repository / name).exists():
                path.rename(repository / name)
                continue
        shutil.rmtree(path, ignore_errors=True)


def _files_below(folder: Path, version: str) -> set[PurePosixPath]:
    return {
        PurePosixPath(path.relative_to(folder).as_posix())
        for path in (folder / version).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
