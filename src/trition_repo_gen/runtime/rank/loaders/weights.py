"""Loading weights with a check that names what is missing, tolerance for bookkeeping entries, and progress.

Transformer Engine keeps `_extra_state` entries beside the weights: scales for FP8, an empty tensor without FP8. A
checkpoint written without Transformer Engine, or by one before 1.14, lacks some of them or has them in another form.
Megatron-Bridge reads them and throws them away (megatron-bridge 0.6.2, training/checkpointing.py:233), but Megatron
Core refuses a checkpoint that lacks one. So an entry that the checkpoint has not is not asked for. Writing empty
entries on a CPU would help only checkpoints that this project wrote, and tie them to a Transformer Engine's format.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, ShardedTensorFactory
from megatron.core.dist_checkpointing.serialization import load_sharded_metadata
from megatron.core.dist_checkpointing.strategies.torch import MCoreLoadPlanner

from ...common.errors import LoadError
from . import index, reading

_GENERATE = "_generate_model_state_dict"
_STEP = 10
"""Percent between two lines of progress, and seconds: the larger step counts."""
_SECONDS = 1.0


@contextmanager
def checked(checkpoint: Path, any_extra_state: bool, progress: Callable[[str], None]) -> Iterator[None]:
    """Check and report the load of weights that Megatron-Bridge does inside this context.

    Replaces `_generate_model_state_dict` of megatron-bridge 0.6.2 (training/checkpointing.py:1956), through which every
    load learns what the model wants.

    Args:
        checkpoint: the checkpoint's `iter_*` folder.
        any_extra_state: ask for no `_extra_state` at all.
        progress: takes lines about how far it is.

    Raises:
        LoadError: inside the context, when the checkpoint lacks a weight.
        RuntimeError: Megatron-Bridge has no such function.
    """
    import megatron.bridge.training.checkpointing as bridge_checkpointing

    generate = getattr(bridge_checkpointing, _GENERATE, None)
    if generate is None:
        raise RuntimeError(f"{bridge_checkpointing.__name__} has no {_GENERATE}; install megatron-bridge 0.6.")

    def generate_what_is_there(*args: Any, **kwargs: Any) -> dict[str, Any]:
        wanted: dict[str, Any] = generate(*args, **kwargs)
        meter.expect(wanted, checkpoint, any_extra_state)
        return wanted

    meter = Meter(progress)
    setattr(bridge_checkpointing, _GENERATE, generate_what_is_there)
    try:
        with meter, reading.by_threads():
            yield
    finally:
        setattr(bridge_checkpointing, _GENERATE, generate)


def stored_keys(checkpoint: Path) -> set[str]:
    """Return what the checkpoint's metadata lists: keys of tensors, unique keys (with the shard) of objects."""
    index.require_harmless(checkpoint)
    stored = load_sharded_metadata(str(checkpoint)).values()
    return {entry.unique_key if isinstance(entry, ShardedObject) else entry.key for entry in stored}


def drop_extra_state(wanted: dict[str, Any], stored: set[str] | None) -> None:
    """Remove the `_extra_state` entries that are not stored, in place.

    Args:
        wanted: a sharded state dict, nested dictionaries.
        stored: see `stored_keys`; None removes all of them.
    """
    for key, value in list(wanted.items()):
        if isinstance(value, dict):
            drop_extra_state(value, stored)
        elif (
            isinstance(value, ShardedObject)
            and "_extra_state" in value.key
            and (stored is None or value.unique_key not in stored)
        ):
            del wanted[key]


def require_stored(wanted: dict[str, Any], stored: set[str], checkpoint: Path) -> None:
    """Check that the checkpoint has every weight that this rank's part of the model wants.

    Raises:
        LoadError: it does not; the first missing one is named.
    """
    keys = {leaf.unique_key if isinstance(leaf, ShardedObject) else leaf.key for leaf in _leaves(wanted)}
    missing = sorted(keys - stored)
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise LoadError(
            f"{checkpoint} lacks the weight {missing[0]!r}{others}; it is incomplete or of another model than its "
            "configuration says, so save it again."
        )


def _leaves(wanted: dict[str, Any]) -> Iterator[ShardedTensor | ShardedObject]:
    for value in nested_values(wanted):
        if isinstance(value, ShardedTensorFactory):
            built = value.build()
            yield from _leaves(built if isinstance(built, dict) else {"": built})
        elif isinstance(value, ShardedTensor | ShardedObject):
            yield value


class Meter:
    """Counts the bytes that reach the model, while it is the context.

    Wraps `MCoreLoadPlanner.commit_tensor` of megatron-core 0.19.2 (dist_checkpointing/strategies/torch.py:640). Without
    that method there are no lines between begin and end.

    Args:
        progress: takes lines about how far it is.
    """

    def __init__(self, progress: Callable[[str], None]) -> None:
        self._total = self._done = self._told = 0
        self._begun = self._told_at = time.monotonic()
        self._progress = progress
        self._commit = getattr(MCoreLoadPlanner, "commit_tensor", None)

    def expect(self, wanted: dict[str, Any], folder: Path, any_extra_state: bool) -> None:
        """Check that the checkpoint has what is wanted of it, and ask for no bookkeeping that it has not.

        Args:
            wanted: the sharded state dict of this rank's part of the model, changed in place.
            folder: of the distributed checkpoint.
            any_extra_state: ask for no `_extra_state` at all.

        Raises:
            LoadError: it lacks a weight.
        """
        stored = stored_keys(folder)
        drop_extra_state(wanted, None if any_extra_state else stored)
        require_stored(wanted, stored, folder)
        self._total = sum(tensor.data.nbytes for tensor in _leaves(wanted) if isinstance(tensor, ShardedTensor))
        self._progress(f"loading {_size(self._total)} of weights")
        self._begun = time.monotonic()

    def __enter__(self) -> Self:
        commit = self._commit
        if commit is None:
            return self

        def count(planner: Any, read_item: Any, tensor: Any) -> None:
            commit(planner, read_item, tensor)
            self._add(tensor.nbytes)

        MCoreLoadPlanner.commit_tensor = count
        return self

    def __exit__(self, *_: object) -> None:
        if self._commit is not None:
            MCoreLoadPlanner.commit_tensor = self._commit
        if self._total and self._done >= self._total:
            seconds = max(time.monotonic() - self._begun, 1e-3)
            self._progress(f"read {_size(self._total)} in {seconds:.1f} s, {self._total / 1e9 / seconds:.2f} GB/s")

    def _add(self, size: int) -> None:
        self._done += size
        percent = min(100, 100 * self._done // max(1, self._total)) // _STEP * _STEP
        now = time.monotonic()
        if percent > self._told and (percent == 100 or now - self._told_at >= _SECONDS):
            self._told, self._told_at = percent, now
            self._progress(f"loading weights: {percent} % of {_size(self._total)}")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
