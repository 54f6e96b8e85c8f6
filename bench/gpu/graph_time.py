"""Times of kernels in a CUDA graph, which is how the engine runs them."""

import statistics
from collections.abc import Callable
from typing import Any

import torch


def microseconds(compute: Callable[[], Any], calls: int) -> float:
    """Return the median time of a call, of five replays of a graph with `calls` of them."""
    compute()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            compute()
    graph.replay()
    times = []
    for _ in range(5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(1000 * begin.elapsed_time(end) / calls)
    return statistics.median(times)
