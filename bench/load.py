"""Closed loops of clients over HTTP: each sends its next request when the last is answered."""

import functools
import http.client
import itertools
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier

_CLIENTS_OF_A_PROCESS = 8
_CORES_OF_A_PROCESS = 4
"""So many cores are left to the server for each process of clients."""
_PATIENCE = 120.0
"""Seconds that clients wait for the others to connect."""


@dataclass(frozen=True)
class Load:
    """What a loop brought: new tokens in all, and seconds from the first request to the last answer."""

    tokens: int
    seconds: float

    @property
    def rate(self) -> float:
        """New tokens per second."""
        return self.tokens / self.seconds


Lengths = int | Sequence[int]
"""New tokens of every answer, or of each."""
_Ask = Callable[[http.client.HTTPConnection, str, int], int]
"""Sends a prompt and returns the new tokens of its answer."""


def over_http(url: str, model: str, clients: int, prompts: Sequence[str], max_length: Lengths) -> Load:
    """Send all prompts to Triton's `infer` endpoint, one a request, with `clients` of them in flight.

    Every client is a thread with a connection of its own, a few of them a process where cores are plenty: the clients
    of one would wait for each other. They speak plain JSON: tritonclient takes milliseconds of a core for a request,
    which on a machine of few cores would be measured as the server's.
    """
    return _closed_loop(url, clients, prompts, max_length, functools.partial(_infer, model))


def over_rest(
    url: str, model: str, clients: int, prompts: Sequence[str], max_length: Lengths, *, stream: bool = False
) -> Load:
    """Do the same with the REST service's `/v1/completions`, greedily as `infer` does by default."""
    return _closed_loop(url, clients, prompts, max_length, functools.partial(_complete, model, stream))


def _infer(model: str, connection: http.client.HTTPConnection, prompt: str, length: int) -> int:
    answer = _post(connection, f"/v2/models/{model}/infer", _request(prompt, length))
    (completion_tokens,) = (o for o in json.loads(answer)["outputs"] if o["name"] == "completion_tokens")
    return int(completion_tokens["data"][0])


def _complete(model: str, stream: bool, connection: http.client.HTTPConnection, prompt: str, length: int) -> int:
    body = {"model": model, "temperature": 0, "stream": stream, "prompt": prompt, "max_tokens": length}
    if stream:
        body["stream_options"] = {"include_usage": True}
    answer = _post(connection, "/v1/completions", json.dumps(body).encode())
    if stream:
        answer = answer.split(b"\n\n")[-3].removeprefix(b"data: ")  # the usage; [DONE] and nothing come after it
    return int(json.loads(answer)["usage"]["completion_tokens"])


def _closed_loop(url: str, clients: int, prompts: Sequence[str], max_length: Lengths, ask: _Ask) -> Load:
    """Let each client ask until no prompt is left."""
    lengths = [max_length] * len(prompts) if isinstance(max_length, int) else max_length
    asked = list(zip(prompts, lengths, strict=True))
    processes = max(1, min(clients // _CLIENTS_OF_A_PROCESS, len(os.sched_getaffinity(0)) // _CORES_OF_A_PROCESS))
    if processes == 1:
        started, ended, tokens = _clients(url, clients, asked, ask)
        return Load(tokens, ended - started)
    ends = [(clients * index // processes, len(asked) * index // processes) for index in range(processes + 1)]
    shares = [(url, to[0] - since[0], asked[since[1] : to[1]], ask) for since, to in itertools.pairwise(ends)]
    parts = list(_processes(processes).map(_clients_of_a_process, shares))
    return Load(sum(part[2] for part in parts), max(part[1] for part in parts) - min(part[0] for part in parts))


@functools.cache
def _processes(count: int) -> Executor:
    """Processes that begin together whenever each is given one thing to do."""
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(count, timeout=_PATIENCE)
    return ProcessPoolExecutor(count, context, initializer=_remember, initargs=(together,))


_together: Barrier | None = None


def _remember(barrier: Barrier) -> None:
    global _together
    _together = barrier


def _clients_of_a_process(share: tuple[str, int, list[tuple[str, int]], _Ask]) -> tuple[float, float, int]:
    return _clients(*share, ready=_together)


def _clients(
    url: str, clients: int, asked: Sequence[tuple[str, int]], ask: _Ask, ready: Barrier | None = None
) -> tuple[float, float, int]:
    """Run clients in threads; return when they began and ended, in seconds of the machine's clock, and new tokens.

    Args:
        url: HOST:PORT.
        clients: threads, each with a connection.
        asked: prompts and the lengths of their answers.
        ask: what a client does with one.
        ready: of all processes, if there are several.
    """
    waiting = iter(asked)
    lock = threading.Lock()
    start = threading.Barrier(clients + 1, timeout=_PATIENCE)

    def ask_until_none_is_left() -> int:
        tokens = 0
        connection = http.client.HTTPConnection(url, timeout=600)
        try:
            connection.connect()
            start.wait()
            while True:
                with lock:
                    following = next(waiting, None)
                if following is None:
                    return tokens
                tokens += ask(connection, *following)
        finally:
            connection.close()

    with ThreadPoolExecutor(clients) as pool:
        futures = [pool.submit(ask_until_none_is_left) for _ in range(clients)]
        if ready is not None:
            ready.wait()
        start.wait()
        started = time.monotonic()
        tokens = sum(future.result() for future in futures)
        return started, time.monotonic(), tokens


def _post(connection: http.client.HTTPConnection, path: str, body: bytes) -> bytes:
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    if response.status != http.client.OK:
        raise RuntimeError(f"{response.status}: {answer[:1000]!r}")
    return answer


def _request(prompt: str, max_length: int) -> bytes:
    inputs = [
        {"name": "prompts", "shape": [1, 1], "datatype": "BYTES", "data": [prompt]},
        {"name": "max_length", "shape": [1, 1], "datatype": "INT64", "data": [max_length]},
    ]
    outputs = [{"name": name} for name in ("sentences", "completion_tokens")]
    return json.dumps({"inputs": inputs, "outputs": outputs}).encode()
