"""Check that a checkpoint has every weight, ask for no bookkeeping that it lacks, and report progress.

Transformer Engine keeps `_extra_state` entries beside the weights: scales for FP8, an empty tensor without FP8. A
checkpoint written without Transformer Engine, or by one before 1.14, lacks some of them or has them in another form.
Megatron-Bridge reads and discards them (megatron-bridge 0.6.2, training/checkpointing.py:233), but Megatron Core
refuses a checkpoint that lacks one. So entries that the checkpoint lacks are not requested. Writing empty entries on a
CPU would help only checkpoints that this project wrote, and tie them to one version's format.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, ShardedTensorFactory
from megatron.core.dist_checkpointing.serialization import load_sharded_metadata

from ...common.errors import LoadError
from . import index, reading, upstream

_STEP = 10
"""Percent between two lines of progress, and seconds: the larger step counts."""
_SECONDS = 1.0


@contextmanager
def checked(checkpoint: Path, any_extra_state: bool, progress: Callable[[str], None]) -> Iterator[None]:
    """Check and report the loading of weights that Megatron-Bridge does within this context.

    Args:
        checkpoint: the checkpoint's `iter_*` folder.
        any_extra_state: request no `_extra_state` at all.
        progress: takes lines about how far it is.

    Raises:
        LoadError: inside the context, when the checkpoint lacks a weight.
        RuntimeError: Megatron-Bridge has no such function.
    """
    meter = Meter(progress)

    def check(requested: dict[str, Any]) -> None:
        meter.expect(requested, checkpoint, any_extra_state)

    with upstream.requested_weights(check), meter, reading.by_threads():
        yield


def stored_keys(checkpoint: Path) -> set[str]:
    """Return what the checkpoint's metadata lists: keys of tensors, unique keys (with the shard) of objects."""
    index.require_harmless(checkpoint)
    stored = load_sharded_metadata(str(checkpoint)).values()
    return {entry.unique_key if isinstance(entry, ShardedObject) else entry.key for entry in stored}


def drop_extra_state(requested: dict[str, Any], stored: set[str] | None) -> None:
    """Remove the `_extra_state` entries that are not stored, in place.

    Args:
        requested: a sharded state dict, nested dictionaries.
        stored: see `stored_keys`; None removes all of them.
    """
    for key, value in list(requested.items()):
        if isinstance(value, dict):
            drop_extra_state(value, stored)
        elif (
            isinstance(value, ShardedObject)
            and "_extra_state" in value.key
            and (stored is None or value.unique_key not in stored)
        ):
            del requested[key]


def require_stored(requested: dict[str, Any], stored: set[str], checkpoint: Path) -> None:
    """Check that the checkpoint has every weight that this rank's part of the model needs.

    Raises:
        LoadError: it lacks some; the first one is named.
    """
    keys = {leaf.unique_key if isinstance(leaf, ShardedObject) else leaf.key for leaf in _leaves(requested)}
    missing = sorted(keys - stored)
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise LoadError(
            f"{checkpoint} lacks the weight {missing[0]!r}{others}; it is incomplete or of another model than its "
            "configuration says, so save it again."
        )


def _leaves(requested: dict[str, Any]) -> Iterator[ShardedTensor | ShardedObject]:
    for value in nested_values(requested):
        if isinstance(value, ShardedTensorFactory):
            built = value.build()
            yield from _leaves(built if isinstance(built, dict) else {"": built})
        elif isinstance(value, ShardedTensor | ShardedObject):
            yield value


class Meter:
    """Reports how much of the weights is loaded, while it is the context.

    Args:
        progress: takes lines about how far it is.
    """

    def __init__(self, progress: Callable[[str], None]) -> None:
        self._total = self._done = self._reported = 0
        self._begun = self._reported_at = time.monotonic()
        self._progress = progress
        self._patches = ExitStack()

    def expect(self, requested: dict[str, Any], folder: Path, any_extra_state: bool) -> None:
        """Check that the checkpoint has what is requested, and request no bookkeeping entry that it lacks.

        Args:
            requested: the sharded state dict of this rank's part of the model, changed in place.
            folder: of the distributed checkpoint.
            any_extra_state: request no `_extra_state` at all.

        Raises:
            LoadError: it lacks a weight.
        """
        stored = stored_keys(folder)
        drop_extra_state(requested, None if any_extra_state else stored)
        require_stored(requested, stored, folder)
        self._total = sum(tensor.data.nbytes for tensor in _leaves(requested) if isinstance(tensor, ShardedTensor))
        self._progress(f"loading {_size(self._total)} of weights")
        self._begun = time.monotonic()

    def __enter__(self) -> Self:
        self._patches.enter_context(upstream.committed_bytes(self._add))
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.close()
        if self._total and self._done >= self._total:
            seconds = max(time.monotonic() - self._begun, 1e-3)
            self._progress(f"read {_size(self._total)} in {seconds:.1f} s, {self._total / 1e9 / seconds:.2f} GB/s")

    def _add(self, size: int) -> None:
        self._done += size
        percent = min(100, 100 * self._done // max(1, self._total)) // _STEP * _STEP
        now = time.monotonic()
        if percent > self._reported and (percent == 100 or now - self._reported_at >= _SECONDS):
            self._reported, self._reported_at = percent, now
            self._progress(f"loading weights: {percent} % of {_size(self._total)}")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
