"""Puts rendered model folders in place: each completely or not at all, also when the process is killed."""

import ctypes
import fcntl
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from trition_repo_gen.errors import RepositoryError, system_errors
from trition_repo_gen.repository.ownership import require_ours
from trition_repo_gen.repository.render import CONFIG, Files, is_edited

# Prefix of the temporary folders of a build. A killed build leaves some, which the next build removes.
_STAGING = ".trgen-"


@dataclass(frozen=True, kw_only=True)
class Folder:
    """The wanted content of a model's folder."""

    path: Path
    version: int
    files: Files
    check: Callable[[Path], None]
    """Reads back the folder that was written beside the old one; if it raises, nothing is changed."""


@dataclass(frozen=True)
class Written:
    """What happened to a model's folder, and which files differ from before, relative to it."""

    outcome: Literal["created", "updated", "unchanged"]
    changed: tuple[PurePosixPath, ...] = ()
    edited: PurePosixPath | None = None
    """Name under which a config.pbtxt that was edited by hand is kept."""


def compare(folders: Sequence[Folder], *, force: bool) -> list[Written]:
    """Return what `write` would do with each folder, byte by byte; nothing is written.

    Raises:
        RepositoryError: one would replace another model and `force` is off, or a file cannot be read or written.
    """
    with writing(folders[0].path.parent):
        return [_compare(folder, force=force) for folder in folders]


def write(folders: Sequence[Folder], unwanted: Sequence[Path] = (), *, force: bool) -> list[Written]:
    """Replace models' folders of one repository. Other files in them (other versions, labels …) are kept.

    The new folders are built beside the old ones and read back. When all are complete, each is exchanged with the old
    one in one step, in the order given. The unwanted folders are removed last.

    Args:
        folders: the folders to write.
        unwanted: the folders to remove.
        force: whether a folder may replace another model's.

    Raises:
        RepositoryError: one would replace another model and `force` is off, or a file cannot be read or written.
    """
    repository = folders[0].path.parent
    with writing(repository), ExitStack() as held:
        places = [_place(folder.path) for folder in folders]
        repository.mkdir(parents=True, exist_ok=True)
        parents = {path.resolve() for path in (repository, *(place.parent for place in places))}
        for parent in sorted(parents):
            held.enter_context(_locked(parent))
        held.enter_context(_undisturbed())
        for parent in parents:
            _remove_leftovers(parent)
        written = [_compare(folder, force=force) for folder in folders]
        staged: list[tuple[Path, Path]] = []
        try:
            for folder, place, result in zip(folders, places, written, strict=True):
                if result.outcome != "unchanged":
                    staged.append((_beside(place), place))
                    _stage(folder, *staged[-1], result.edited)
            for new, place in staged:
                _put(new, place)
            for path in unwanted:
                aside = _beside(path)
                path.rename(aside)
                _discard(aside)
        finally:
            for new, _ in staged:
                _discard(new)
        return written


def writing(repository: Path) -> AbstractContextManager[None]:
    """Make one sentence of an OSError while a repository is read and written."""
    instead = "write another --model-repository, or free or grant what is missing"
    return system_errors(RepositoryError, f"{repository} cannot be written", instead)


def _compare(folder: Folder, *, force: bool) -> Written:
    place, files = _place(folder.path), folder.files
    require_ours(folder.path, folder.version, files[CONFIG].decode(), force=force)
    if not place.exists():
        return Written("created", tuple(files))
    changed = [path for path, content in files.items() if _content(place / path) != content]
    changed += sorted(_files_below(place, str(folder.version)) - files.keys())
    if not changed:
        return Written("unchanged")
    config = _content(place / CONFIG)
    edited = CONFIG in changed and config is not None and is_edited(config.decode(errors="replace"))
    return Written("updated", tuple(changed), _unused(place, f"{CONFIG}.edited") if edited else None)


def _place(folder: Path) -> Path:
    """Return the target of a folder that is a symbolic link, else the folder. The link itself is kept."""
    if not folder.is_symlink():
        return folder
    if not folder.exists():
        raise RepositoryError(
            f"{folder} is a symbolic link to {folder.readlink()}, which is not there; make that folder, or remove the "
            "link."
        )
    return folder.resolve()


def _unused(folder: Path, name: str) -> PurePosixPath:
    """Return the name, with a number if the folder has such a file, so that earlier edits are kept as well."""
    number, found = 1, name
    while (folder / found).exists():
        number += 1
        found = f"{name}.{number}"
    return PurePosixPath(found)


def _stage(folder: Folder, staged: Path, place: Path, edited: PurePosixPath | None) -> None:
    staged.mkdir()
    if place.exists():
        _copy_rest(place, staged, {str(CONFIG), str(folder.version)})
        if edited is not None:
            shutil.copy2(place / CONFIG, staged / edited)
    for path, content in folder.files.items():
        target = staged / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    folder.check(staged)


def _put(staged: Path, place: Path) -> None:
    if place.exists():
        _exchange(staged, place)
    else:
        staged.rename(place)


def _beside(folder: Path) -> Path:
    return folder.with_name(f"{_STAGING}{folder.name}-{secrets.token_hex(4)}")


def _discard(path: Path) -> None:
    # rmtree refuses a link, and its target may belong to another repository.
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _copy_rest(old: Path, new: Path, without: set[str]) -> None:
    for path in old.iterdir():
        if path.name in without:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, new / path.name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(path, new / path.name, follow_symlinks=False)


def _exchange(a: Path, b: Path) -> None:
    """Swap two folders: in one step where kernel and file system allow it, else through a third name."""
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


@contextmanager
def _locked(repository: Path) -> Iterator[None]:
    """Lock the repository against other builds. The lock ends with the process."""
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
    """Block Ctrl-C and SIGTERM: the folder of an interrupted build would keep tritonserver from starting."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _remove_leftovers(repository: Path) -> None:
    for path in repository.glob(f"{_STAGING}*"):
        # A build that was killed between the two renames of `_exchange` left the old folder under its third name.
        if path.name.endswith("-old"):
            name = path.name.removeprefix(_STAGING).rsplit("-", 2)[0]
            if not (repository / name).exists():
                path.rename(repository / name)
                continue
        _discard(path)


def _files_below(folder: Path, version: str) -> set[PurePosixPath]:
    return {
        PurePosixPath(path.relative_to(folder).as_posix())
        for path in (folder / version).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
