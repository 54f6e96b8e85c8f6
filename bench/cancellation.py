"""How soon places are free again when streams are closed: by the server's own metrics, and by who starts in them.

    python -m bench cancellation

All places of a server are taken by streams. Half of them, drawn at random, are closed after a few events each, and the
seconds from the last close are measured in two ways: until `trgen:num_requests_running` is the number of those that
still run, and, another time, until as many new streams, sent at once, have their first text. The stub hands metrics to
Triton every half second, which is the first way's resolution. The second has none but includes the start of a stream,
which is measured on its own as well: of as many new ones, after the metrics have shown that their places are free.
"""

import contextlib
import http.client
import json
import random
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.deployment import MODEL, build, describe
from bench.report import console, load_average, table, write
from trition_repo_gen.server import Server, free_ports, running_server

STREAMS = 64
"""As many as the server has places: nobody starts before another has gone."""
CUT = STREAMS // 2
TARGET_SECONDS = 2.0
LAYOUTS: dict[str, tuple[str, ...]] = {
    "one rank": (),
    "tensor parallel size 2": ("--num-gpus", "2", "--tensor-parallel-size", "2"),
}
_PROMPT = "Count from one to fifty."
_LENGTH = 900
"""New tokens of a stream: it outlives what is measured."""
_MOST_EVENTS = 8
"""After which a stream is closed."""
_POLL_SECONDS = 0.02
_PATIENCE = 300.0
"""Seconds in which streams start and places become free, or the measurement has failed."""
_RUNNING = re.compile(rf'^trgen:num_requests_running\{{(?=[^}}]*model="{MODEL}")[^}}]*\}} (\S+)$', re.MULTILINE)
_WAYS = {
    "metrics": "num_requests_running",
    "started": "new streams' first text",
    "start": "that with places free",
}


def run(checkpoint: Path, rank_python: Path, trials: int | None) -> None:
    """Measure, print and write."""
    trials = trials or 5
    load_before = load_average()
    console.rule("cancellation")
    results: list[dict[str, Any]] = []
    for layout, flags in LAYOUTS.items():
        with tempfile.TemporaryDirectory() as folder:
            repository = build(checkpoint, Path(folder), rank_python, "--max-requests", str(STREAMS), *flags)
            with _serving(repository.folder) as server:
                seconds = _measure(server, layout, trials)
            deployment = describe(checkpoint, repository.parameters())
        summary = {way: {"median": statistics.median(each), "largest": max(each)} for way, each in seconds.items()}
        results.append({"layout": layout, "seconds": seconds, **summary, "deployment": deployment})
    table(
        f"{CUT} of {STREAMS} streams closed, seconds from the last close, {trials} trials",
        ["layout and way", "median", "largest", "target"],
        [
            [
                f"{each['layout']}, {title}",
                *(f"{each[way][part]:.2f}" for part in ("median", "largest")),
                f"{TARGET_SECONDS:g}" if way == "metrics" else "",
            ]
            for each in results
            for way, title in _WAYS.items()
        ],
    )
    settings = {"streams": STREAMS, "cut": CUT, "target_seconds": TARGET_SECONDS}
    write("cancellation", settings | {"runs": results}, rank_python=rank_python, load_before=load_before)


def _measure(server: Server, layout: str, trials: int) -> dict[str, list[float]]:
    """Return the seconds of each trial, by the way of measuring."""
    seconds: dict[str, list[float]] = {way: [] for way in _WAYS}
    for trial in range(-1, trials):  # the first warms up
        now = {}
        with _half_cut(server, random.Random(f"metrics {trial}")) as (uncut, last_close):
            _wait_for_running(server, CUT)
            freed = time.monotonic()
            now["metrics"] = freed - last_close
            now["start"] = _start_again(server) - freed
            _check(uncut)
        with _half_cut(server, random.Random(f"started {trial}")) as (uncut, last_close):
            now["started"] = _start_again(server) - last_close
            _check(uncut)
        if trial < 0:
            continue
        console.print(f"{layout}: " + ", ".join(f"{way} {value:.2f} s" for way, value in now.items()), style="dim")
        for way, value in now.items():
            seconds[way].append(value)
    return seconds


@contextlib.contextmanager
def _half_cut(server: Server, rng: random.Random) -> Iterator[tuple[list["Future[float]"], float]]:
    """Start all streams and close half of them; gives the others, and when the last one was closed (monotonic clock).

    At the end of the block the others are closed as well, and all places are free.
    """
    events: list[int | None] = [None] * STREAMS
    for number in rng.sample(range(STREAMS), CUT):
        events[number] = rng.randint(1, _MOST_EVENTS)
    all_run = threading.Barrier(STREAMS + 1, timeout=_PATIENCE)
    over = threading.Event()
    with ThreadPoolExecutor(STREAMS) as pool:
        streams = [pool.submit(_stream, _url(server), count, all_run, over) for count in events]
        try:
            _wait_for_running(server, STREAMS)  # else it might be an old number that fits
            all_run.wait()
            closed = [stream.result() for stream, count in zip(streams, events, strict=True) if count is not None]
            yield [stream for stream, count in zip(streams, events, strict=True) if count is None], max(closed)
        finally:
            all_run.abort()
            over.set()
    for stream in streams:
        stream.result()
    _wait_for_running(server, 0)


def _stream(url: str, events: int | None, all_run: threading.Barrier, over: threading.Event) -> float:
    """Read the first event, wait for all, read so many more or until it is over; return when it was closed."""
    with _started(url) as response:
        all_run.wait()
        read = 0
        while not over.is_set() and read != events:
            line = response.readline()
            if not line:
                raise RuntimeError("a stream has ended by itself")
            read += line.startswith(b"data:")
    return time.monotonic()


@contextlib.contextmanager
def _started(url: str) -> Iterator[http.client.HTTPResponse]:
    """Ask for a stream and read its first event; the connection is closed at the end of the block."""
    connection = http.client.HTTPConnection(url, timeout=_PATIENCE)
    try:
        body = json.dumps({"prompts": _PROMPT, "max_length": _LENGTH, "min_length": _LENGTH})
        path = f"/v2/models/{MODEL}_stream/generate_stream"
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        line = response.readline()
        if response.status != http.client.OK or not line.startswith(b"data:"):
            raise RuntimeError(f"{response.status}: {line[:1000]!r}")
        yield response
    finally:
        connection.close()


def _start_again(server: Server) -> float:
    """Send as many streams as were cut; return when the last of them had its first text (monotonic clock)."""

    def first_text(_: int) -> float:
        with _started(_url(server)):
            return time.monotonic()

    with ThreadPoolExecutor(CUT) as pool:
        return max(pool.map(first_text, range(CUT)))


def _check(uncut: list["Future[float]"]) -> None:
    """Make sure that no place became free but those of the streams that were cut."""
    if ended := [stream for stream in uncut if stream.done()]:
        ended[0].result()
        raise RuntimeError("a stream that was not cut has ended")


def _wait_for_running(server: Server, sequences: int) -> None:
    """Poll Triton's metrics until so many sequences run: neither Triton nor a model tells anybody that they changed."""
    deadline = time.monotonic() + _PATIENCE
    while (found := _running(server)) != sequences:
        if time.monotonic() > deadline:
            raise RuntimeError(f"num_requests_running is {found}, not {sequences}, after {_PATIENCE:g} s")
        time.sleep(_POLL_SECONDS)


def _running(server: Server) -> float:
    assert server.metrics_url is not None
    connection = http.client.HTTPConnection(server.metrics_url, timeout=_PATIENCE)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    found = _RUNNING.search(text)
    return float(found[1]) if found else -1.0


def _url(server: Server) -> str:
    assert server.http_url is not None
    return server.http_url


@contextlib.contextmanager
def _serving(repository: Path) -> Iterator[Server]:
    http_port, grpc, metrics = free_ports(3)
    with running_server(
        repository, http_port=http_port, grpc_port=grpc, metrics_port=metrics, ready_within=1800
    ) as server:
        yield server
