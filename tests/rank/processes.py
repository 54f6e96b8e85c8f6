"""Process groups of torch.distributed: this process alone, or several ranks on this machine."""

import importlib
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trition_repo_gen.runtime.rank import cpu

_TIMEOUT = timedelta(minutes=5)
"""For a rank that waits for one that failed."""


@contextmanager
def one_rank() -> Iterator[None]:
    """Make this process the only rank; afterwards Megatron's groups are gone as well."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        _leave()


def on_ranks[T](count: int, function: Callable[..., T], *arguments: Any) -> list[T]:
    """Call a function of a module in `count` new processes, which are the ranks of a group; return what each returns.

    The CPU backend is installed, and Megatron-Bridge imported, before the function's module is.
    """
    named = (function.__module__, function.__qualname__)
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        store = str(Path(folder) / "store")
        ranks = [pool.submit(_call, rank, count, store, *named, *arguments) for rank in range(count)]
        return [rank.result() for rank in ranks]


def _call(rank: int, count: int, store: str, module: str, name: str, *arguments: Any) -> Any:
    torch.set_num_threads(1)
    cpu.install()
    importlib.import_module("megatron.bridge")
    cpu.after_import()
    function = getattr(importlib.import_module(module), name)
    dist.init_process_group("gloo", store=dist.FileStore(store, count), rank=rank, world_size=count, timeout=_TIMEOUT)
    try:
        return function(*arguments)
    finally:
        _leave()


def _leave() -> None:
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()
