"""A rank is killed while it decodes: what its requests are told, and when the answers are right again."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.gpu.answers import KV_CACHE_GIB, PROMPTS
from bench.gpu.serving import Host, serving
from bench.report import table
from trition_repo_gen.errors import QueryError

_IN_FLIGHT = 8
_BACK_SECONDS = 300.0


def run(host: Host, trained: Path) -> dict[str, Any]:
    """Kill rank 1 of two tensor-parallel ranks."""
    with serving(host, "faults", trained, tensor_parallel_size=2, kv_cache_gib=KV_CACHE_GIB) as running:
        running.wait_ready()
        expected = [sequence["text"] for sequence in running.ask(PROMPTS, 64)]
        deaths: list[tuple[float, str]] = []
        started = threading.Barrier(_IN_FLIGHT + 1)

        def ask_again_and_again() -> None:
            started.wait()
            try:
                while True:
                    running.ask(PROMPTS, 600)
            except QueryError as error:
                deaths.append((time.monotonic(), str(error)))

        with ThreadPoolExecutor(_IN_FLIGHT) as pool:
            for _ in range(_IN_FLIGHT):
                pool.submit(ask_again_and_again)
            started.wait()
            running.ask(PROMPTS[:1], 64)  # joins them, so they are being decoded
            killed = time.monotonic()
            os.kill(running.server.ranks()[1], signal.SIGKILL)
        told = max(at for at, _ in deaths) - killed
        back = None
        while back is None and time.monotonic() - killed < _BACK_SECONDS:
            try:
                again = [sequence["text"] for sequence in running.ask(PROMPTS, 64)]
                back = time.monotonic() - killed
            except QueryError:
                time.sleep(0.2)  # what is measured is when somebody who asks again and again is answered
    result = {
        "in_flight": _IN_FLIGHT,
        "told": sorted({sentence for _, sentence in deaths}),
        "all_told_after_seconds": told,
        "back_after_seconds": back,
        "answers_right": back is not None and again == expected,
    }
    table(
        "kill -9 of rank 1 of TP2 while it decodes",
        ["what", "value"],
        [[key.replace("_", " "), str(value)] for key, value in result.items()],
    )
    return result
