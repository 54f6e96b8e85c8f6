"""Closed loops of clients over HTTP: each sends its next request when the last is answered."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass


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


def over_http(url: str, model: str, clients: int, prompts: Sequence[str], max_length: Lengths) -> Load:
    """Send all prompts to Triton's `infer` endpoint, one a request, with `clients` of them in flight.

    Every client is a thread with a connection of its own. They speak plain JSON: tritonclient takes milliseconds of a
    core for a request, which on a machine of few cores would be measured as the server's.
    """

    def ask(connection: http.client.HTTPConnection, prompt: str, length: int) -> int:
        answer = _post(connection, f"/v2/models/{model}/infer", _request(prompt, length))
        (completion_tokens,) = (o for o in json.loads(answer)["outputs"] if o["name"] == "completion_tokens")
        return int(completion_tokens["data"][0])

    return _closed_loop(url, clients, prompts, max_length, ask)


def over_rest(
    url: str, model: str, clients: int, prompts: Sequence[str], max_length: Lengths, *, stream: bool = False
) -> Load:
    """Do the same with the REST service's `/v1/completions`, greedily as `infer` does by default."""
    wanted = {"model": model, "temperature": 0, "stream": stream}
    if stream:
        wanted["stream_options"] = {"include_usage": True}

    def ask(connection: http.client.HTTPConnection, prompt: str, length: int) -> int:
        body = wanted | {"prompt": prompt, "max_tokens": length}
        answer = _post(connection, "/v1/completions", json.dumps(body).encode())
        if stream:
            answer = answer.split(b"\n\n")[-3].removeprefix(b"data: ")  # the usage; [DONE] and nothing come after it
        return int(json.loads(answer)["usage"]["completion_tokens"])

    return _closed_loop(url, clients, prompts, max_length, ask)


def _closed_loop(
    url: str,
    clients: int,
    prompts: Sequence[str],
    max_length: Lengths,
    ask: Callable[[http.client.HTTPConnection, str, int], int],
) -> Load:
    """Let each client ask until no prompt is left; `ask` returns the new tokens of one answer."""
    lengths = [max_length] * len(prompts) if isinstance(max_length, int) else max_length
    waiting = iter(zip(prompts, lengths, strict=True))
    lock = threading.Lock()
    start = threading.Barrier(clients + 1)

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
        start.wait()
        started = time.perf_counter()
        tokens = sum(future.result() for future in futures)
        return Load(tokens, time.perf_counter() - started)


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
