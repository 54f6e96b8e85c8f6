"""Time to first token: through tritonserver's stream, over the engine's own."""

import http.client
import json
import statistics
import tempfile
import time
from pathlib import Path

from bench.deployment import MODEL, build, describe
from bench.engine import in_process
from bench.overhead import PROMPTS, serving
from bench.report import console, load_average, table, write

TARGET_MILLISECONDS = 5.0
_ROUNDS = 15
"""Of all prompts."""
_MAX_LENGTH = 4


def run(checkpoint: Path, rank_python: Path, trials: int | None) -> None:
    """Measure, print and write."""
    rounds = trials or _ROUNDS
    load_before = load_average()
    console.rule("time to first token")
    seconds: dict[str, list[float]] = {"stream": [], "engine": []}
    with tempfile.TemporaryDirectory() as folder:
        repository = build(checkpoint, Path(folder), rank_python)
        with serving(repository.folder) as url, in_process(repository, rank_python) as engine:
            for trial in range(-1, rounds):  # the first warms up
                for prompt in PROMPTS:
                    streamed = first_text(url, f"{MODEL}_stream", prompt)
                    own = float(engine.run("runtime", 1, [prompt], 1)["seconds"])
                    if trial >= 0:
                        seconds["stream"].append(streamed)
                        seconds["engine"].append(own)
        deployment = describe(checkpoint, repository.parameters())
    medians = {side: statistics.median(values) * 1000 for side, values in seconds.items()}
    more = statistics.median(a - b for a, b in zip(seconds["stream"], seconds["engine"], strict=True)) * 1000
    table(
        f"milliseconds to the first token, one client, medians of {len(seconds['engine'])} alternating requests",
        ["generate_stream", "engine in-process", "more", "target"],
        [[f"{medians['stream']:.1f}", f"{medians['engine']:.1f}", f"{more:.1f}", f"{TARGET_MILLISECONDS:g}"]],
    )
    result = {"milliseconds": medians, "more": more, "seconds": seconds, "deployment": deployment}
    write("first_token", result | {"target": TARGET_MILLISECONDS}, rank_python=rank_python, load_before=load_before)


def first_text(url: str, model: str, prompt: str) -> float:
    """Ask Triton's `generate_stream` and return the seconds until the first event; the rest is read as well."""
    connection = http.client.HTTPConnection(url, timeout=600)
    try:
        connection.connect()
        body = json.dumps({"prompts": prompt, "max_length": _MAX_LENGTH})
        started = time.perf_counter()
        connection.request("POST", f"/v2/models/{model}/generate_stream", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        line = response.readline()
        taken = time.perf_counter() - started
        rest = response.read()
    finally:
        connection.close()
    if response.status != http.client.OK or not line.startswith(b"data:"):
        raise RuntimeError(f"{response.status}: {(line + rest)[:1000]!r}")
    return taken
