"""Closed loops of clients over HTTP: each sends its next request when the last is answered."""

import contextlib
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import tritonclient.http


@dataclass(frozen=True)
class Load:
    """What a loop brought: new tokens in all, and seconds from the first request to the last answer."""

    tokens: int
    seconds: float

    @property
    def rate(self) -> float:
        """New tokens per second."""
        return self.tokens / self.seconds


def over_http(url: str, model: str, clients: int, prompts: Sequence[str], max_length: int) -> Load:
    """Send all prompts, one a request, with `clients` of them in flight.

    Every client is a thread with a connection of its own.
    """
    waiting = iter(prompts)
    lock = threading.Lock()
    start = threading.Barrier(clients + 1)

    def ask_until_none_is_left() -> int:
        tokens = 0
        with contextlib.closing(tritonclient.http.InferenceServerClient(url, network_timeout=600.0)) as client:
            client.is_server_live()  # connects
            start.wait()
            while True:
                with lock:
                    prompt = next(waiting, None)
                if prompt is None:
                    return tokens
                result = client.infer(model, _inputs(prompt, max_length), outputs=_OUTPUTS)
                tokens += int(result.as_numpy("completion_tokens")[0, 0])

    with ThreadPoolExecutor(clients) as pool:
        futures = [pool.submit(ask_until_none_is_left) for _ in range(clients)]
        start.wait()
        started = time.perf_counter()
        tokens = sum(future.result() for future in futures)
        return Load(tokens, time.perf_counter() - started)


_OUTPUTS = [tritonclient.http.InferRequestedOutput(name) for name in ("sentences", "completion_tokens")]


def _inputs(prompt: str, max_length: int) -> list[tritonclient.http.InferInput]:
    prompts = tritonclient.http.InferInput("prompts", [1, 1], "BYTES")
    prompts.set_data_from_numpy(np.array([[prompt.encode()]], dtype=np.object_))
    length = tritonclient.http.InferInput("max_length", [1, 1], "INT64")
    length.set_data_from_numpy(np.array([[max_length]], dtype=np.int64))
    return [prompts, length]
