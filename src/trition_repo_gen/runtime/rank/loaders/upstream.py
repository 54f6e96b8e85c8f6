"""Patches of the libraries that loading goes through: Megatron-Bridge, Megatron Core, torch and nemo-toolkit.

Those that only a load needs are contexts. tests/rank/loaders/test_upstream.py fails where upstream no longer has what
one of them is about.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from megatron.core.dist_checkpointing.strategies.torch import MCoreLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader

_GENERATE = "_generate_model_state_dict"


@contextmanager
def requested_weights(inspect: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Show what Megatron-Bridge is about to load, within this context.

    Wraps `_generate_model_state_dict` of megatron-bridge 0.6.2 (training/checkpointing.py:1956), which makes the
    sharded state dict of every load. Megatron-Bridge offers no other place to change it.

    Args:
        inspect: takes the sharded state dict, and may remove entries.

    Raises:
        RuntimeError: Megatron-Bridge has no such function.
    """
    import megatron.bridge.training.checkpointing as bridge_checkpointing

    generate = getattr(bridge_checkpointing, _GENERATE, None)
    if generate is None:
        raise RuntimeError(f"{bridge_checkpointing.__name__} has no {_GENERATE}; install megatron-bridge 0.6.")

    def generate_and_inspect(*args: Any, **kwargs: Any) -> dict[str, Any]:
        requested: dict[str, Any] = generate(*args, **kwargs)
        inspect(requested)
        return requested

    setattr(bridge_checkpointing, _GENERATE, generate_and_inspect)
    try:
        yield
    finally:
        setattr(bridge_checkpointing, _GENERATE, generate)


@contextmanager
def committed_bytes(count: Callable[[int], None]) -> Iterator[None]:
    """Report the bytes of each tensor that reaches the model, within this context.

    Wraps `MCoreLoadPlanner.commit_tensor` of megatron-core 0.19.2 (dist_checkpointing/strategies/torch.py:640). A
    version without that method reports nothing.

    Args:
        count: takes the bytes of a tensor.
    """
    commit = getattr(MCoreLoadPlanner, "commit_tensor", None)
    if commit is None:
        yield
        return

    def commit_and_count(planner: Any, read_item: Any, tensor: Any) -> None:
        commit(planner, read_item, tensor)
        count(tensor.nbytes)

    MCoreLoadPlanner.commit_tensor = commit_and_count
    try:
        yield
    finally:
        MCoreLoadPlanner.commit_tensor = commit


@contextmanager
def read_data_by(read: Callable[[Callable[..., Any], Any, Any, Any], Any]) -> Iterator[None]:
    """Replace how torch reads a distributed checkpoint, within this context.

    Replaces `FileSystemReader.read_data` of torch 2.11 (distributed/checkpoint/filesystem.py), which unpickles one
    tensor after another. torch has no setting for the number of its threads.

    Args:
        read: takes torch's own method, the reader, the plan and the planner; returns a future.
    """
    original = FileSystemReader.read_data
    FileSystemReader.read_data = lambda reader, plan, planner: read(original, reader, plan, planner)
    try:
        yield
    finally:
        FileSystemReader.read_data = original


def without_tensorstore() -> None:
    """Let nemo-toolkit import a part of Megatron Core that is gone since 0.16; reading a checkpoint never uses it.

    nemo/utils/callbacks/dist_ckpt_io.py:39 of nemo-toolkit 2.7.3.
    """
    strategies = importlib.import_module("megatron.core.dist_checkpointing.strategies")
    name = f"{strategies.__name__}.tensorstore"
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        sys.modules[name] = ModuleType(name)
        setattr(strategies, "tensorstore", sys.modules[name])  # noqa: B010  # the module's type knows no such name


def projector_layers(column_parallel: type, row_parallel: type) -> None:
    """Give nemo-toolkit's projector its linear layers.

    nemo-toolkit 2.7.3 (collections/vlm/vision/base.py:27) imports Transformer Engine's from a deprecated module of
    Megatron Core: they are None where it is gone, and placeholders where Transformer Engine is not installed.

    Args:
        column_parallel: class of the first layer.
        row_parallel: class of the second.
    """
    projector = importlib.import_module("nemo.collections.vlm.vision.base")
    projector.TEColumnParallelLinear, projector.TERowParallelLinear = column_parallel, row_parallel  # type: ignore[attr-defined]
