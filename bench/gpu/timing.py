"""The time that kernels take on a GPU, as the engine runs them."""

import statistics
from collections.abc import Callable

import torch


def microseconds(compute: Callable[[], object], calls: int) -> float:
    """Return the median time of a call, of `calls` in one CUDA graph; the first of all compiles."""
    compute()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            compute()
    graph.replay()
    times: list[float] = []
    for _ in range(5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(1000 * begin.elapsed_time(end) / calls)
    return statistics.median(times)
