"""The registry of checkpoint kinds: recognise a checkpoint's kind by its folder, and read it.

runtime/common/checkpoint_kinds.py lists the kinds' names, each of which is a module of this package.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trition_repo_gen.checkpoints import foreign
from trition_repo_gen.checkpoints.checkpoint import Checkpoint
from trition_repo_gen.checkpoints.checkpoint_kind import CheckpointKind, ReadOptions
from trition_repo_gen.errors import CheckpointError
from trition_repo_gen.paths import expanded
from trition_repo_gen.runtime.common import checkpoint_kinds

KINDS: dict[str, CheckpointKind] = {
    name: importlib.import_module(f"{__package__}.{name}").KIND for name in checkpoint_kinds.NAMES
}
"""By name, in the order in which a folder is compared with them."""


def recognise(path: Path, expected: CheckpointKind | None = None) -> CheckpointKind:
    """Return the kind of the checkpoint at a path, found by looking at its folder.

    Args:
        path: its root, or a part of it.
        expected: the kind that the user named, if any.

    Raises:
        CheckpointError: there is nothing, it is no checkpoint, or it is of a kind that is not served or not expected.
    """
    path = expanded(path).absolute()
    kinds = [expected] if expected else list(KINDS.values())
    with _readable(path):
        if not path.exists():
            titles = " or ".join(kind.title for kind in kinds)
            raise CheckpointError(f"There is no checkpoint at {path}; write the path of a {titles} checkpoint.")
        for kind in KINDS.values():
            if root := kind.find_root(path):
                if expected and kind is not expected:
                    raise CheckpointError(f"{root} is a {kind.title} checkpoint; {kind.instead(root)}.")
                return kind
        if sentence := foreign.sentence(path):
            raise CheckpointError(sentence)
    if expected:
        marks = f"neither {' nor '.join(expected.marks)}" if len(expected.marks) > 1 else f"no {expected.marks[0]}"
        raise CheckpointError(f"{path} is no {expected.title} checkpoint: it has {marks}; write {expected.folder}.")
    all_marks = ", nor ".join(f"{' nor '.join(kind.marks)} ({kind.title})" for kind in kinds)
    folders = ", or ".join(kind.folder for kind in kinds)
    raise CheckpointError(f"{path} is no checkpoint: it has neither {all_marks}; write {folders}.")


def read(
    path: Path, *, kind: CheckpointKind | None = None, multimodal: bool = False, needs_tokenizer: bool = True
) -> Checkpoint:
    """Return the description of the checkpoint at a path.

    Args:
        path: its root, or a part of it, such as one iteration.
        kind: which kind it has to be; None means any.
        multimodal: see `ReadOptions`.
        needs_tokenizer: see `ReadOptions`.

    Raises:
        CheckpointError: it is missing, half-written, damaged, of another kind, or not served.
    """
    found = recognise(path, kind)
    path = expanded(path).absolute()
    with _readable(path):
        return found.read(path, ReadOptions(multimodal, needs_tokenizer))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the system's refusals within this context into one sentence."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or path} cannot be read: {error.strerror or error}; "
            "grant this user access, or write another checkpoint."
        ) from None
