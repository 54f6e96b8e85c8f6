"""Closed loops of clients over HTTP: each sends its next request when the last is answered."""

import http.client
import json
import threading
import time
from collections.abc import Sequence
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


def over_http(url: str, model: str, clients: int, prompts: Sequence[str], max_length: int) -> Load:
    """Send all prompts to the `infer` endpoint, one a request, with `clients` of them in flight.

    Every client is a thread with a connection of its own. They speak plain JSON: tritonclient takes milliseconds of a
    core for a request, which on a machine of few cores would be measured as the server's.
    """
    waiting = iter(prompts)
    lock = threading.Lock()
    start = threading.Barrier(clients + 1)

    def ask_until_none_is_left() -> int:
        tokens = 0
        connection = http.client.HTTPConnection(url, timeout=600)
        try:
            connection.request("GET", "/v2/health/live")  # connects
            connection.getresponse().read()
            start.wait()
            while True:
                with lock:
                    prompt = next(waiting, None)
                if prompt is None:
                    return tokens
                connection.request("POST", f"/v2/models/{model}/infer", _request(prompt, max_length))
                response = connection.getresponse()
                answer = json.loads(response.read())
                if response.status != http.client.OK:
                    raise RuntimeError(f"{response.status}: {answer}")
                (completion_tokens,) = (o for o in answer["outputs"] if o["name"] == "completion_tokens")
                tokens += completion_tokens["data"][0]
        finally:
            connection.close()

    with ThreadPoolExecutor(clients) as pool:
        futures = [pool.submit(ask_until_none_is_left) for _ in range(clients)]
        start.wait()
        started = time.perf_counter()
        tokens = sum(future.result() for future in futures)
        return Load(tokens, time.perf_counter() - started)


def _request(prompt: str, max_length: int) -> bytes:
    inputs = [
        {"name": "prompts", "shape": [1, 1], "datatype": "BYTES", "data": [prompt]},
        {"name": "max_length", "shape": [1, 1], "datatype": "INT64", "data": [max_length]},
    ]
    outputs = [{"name": name} for name in ("sentences", "completion_tokens")]
    return json.dumps({"inputs": inputs, "outputs": outputs}).encode()
