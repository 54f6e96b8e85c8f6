"""Prefix caching and chunked prefill with long prompts: the engines in-process, each in one of its own."""

import contextlib
from pathlib import Path
from typing import Any

from bench import prefill
from bench.engine import SCRIPT, starting
from bench.gpu.serving import Host, build

WORK = prefill.Work(clients=16, requests=64, prompt_bytes=3000, max_length=64)
_KV_CACHE_GIB = 12.0  # three engines share a GPU
_TRIALS = 3


def run(host: Host, checkpoint: Path) -> dict[str, Any]:
    """Run the engines in turn, with CUDA graphs."""
    repository, _ = build(host, "prefill", checkpoint, enable_cuda_graphs=True, kv_cache_gib=_KV_CACHE_GIB)
    with contextlib.ExitStack() as stack:
        processes = {
            name: stack.enter_context(starting(repository, Path(host.rank_python), SCRIPT, name))
            for name in prefill.ENGINES
        }
        for process in processes.values():
            process.wait_ready()
        return {"runs": prefill.compare(processes, WORK, _TRIALS)}
