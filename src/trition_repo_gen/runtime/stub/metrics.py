"""Metrics of the deployment on Triton's own Prometheus endpoint, under vLLM's names with the prefix `trgen:`."""

import bisect
import math
import threading
from collections import defaultdict
from typing import Any

import triton_python_backend_utils as pb_utils

from ..common.protocol import Done, ErrorKind
from .admission import Observer

_FLUSH_SECONDS = 0.5
_LATENCIES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_TOKEN_TIMES = (0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0)

GAUGES = {
    "num_requests_running": "Sequences that run on the engines.",
    "num_requests_waiting": "Requests that wait for a slot.",
    "kv_cache_usage_perc": "Share of the KV cache in use, from 0 to 1, at the leader where it is largest.",
}
COUNTERS = {
    "prompt_tokens_total": "Tokens of the prompts of finished sequences.",
    "generation_tokens_total": "New tokens of finished sequences.",
    "request_success_total": "Finished sequences, by finish reason.",
    "request_failure_total": "Refused or failed sequences, by Triton's error code; an invalid request counts as one.",
    "request_aborted_total": "Sequences cancelled: by the client, by a timeout, or with their request's refused one.",
    "rank_restarts_total": "How often the ranks died and were started again.",
}
HISTOGRAMS = {
    "time_to_first_token_seconds": ("From a request's arrival to its first token.", _LATENCIES),
    "time_per_output_token_seconds": ("Average time between two tokens of a sequence.", _TOKEN_TIMES),
    "e2e_request_latency_seconds": ("From a request's arrival to its answer.", _LATENCIES),
}

_Series = tuple[str, tuple[tuple[str, str], ...]]


class Metrics(Observer):
    """Adds up metrics in this process and passes the sums to Triton twice a second.

    Each call of a Triton metric is a message to the server. A histogram is three families of counters, one for each of
    its series as Prometheus defines them, because a histogram of the Python backend takes one observation a call.

    Args:
        model: the model's name, a label of all series.
        version: its version, another.
    """

    def __init__(self, model: str, version: str):
        self._labels = {"model": model, "version": version}
        self._lock = threading.Lock()
        self._sums: defaultdict[_Series, float] = defaultdict(float)
        self._values: dict[_Series, float] = {}
        self._observations: defaultdict[str, list[float]] = defaultdict(list)
        self._families: dict[str, Any] = {}
        self._metrics: dict[_Series, Any] = {}
        for name, help_ in GAUGES.items():
            self._add_family(name, help_, pb_utils.MetricFamily.GAUGE)
            self.set(name, 0)
        for name, help_ in COUNTERS.items():
            self._add_family(name, help_, pb_utils.MetricFamily.COUNTER)
        for name, (help_, _) in HISTOGRAMS.items():
            for series in ("bucket", "sum", "count"):
                self._add_family(f"{name}_{series}", help_, pb_utils.MetricFamily.COUNTER)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._flush_forever, name="metrics", daemon=True)
        self._thread.start()

    def set(self, name: str, value: float) -> None:
        """Set a gauge."""
        with self._lock:
            self._values[name, ()] = value

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        """Add to a counter."""
        with self._lock:
            self._sums[name, tuple(labels.items())] += value

    def observe(self, name: str, value: float) -> None:
        """Add an observation to a histogram."""
        with self._lock:
            self._observations[name].append(value)

    def waiting(self, requests: int) -> None:
        """Set the number of waiting requests."""
        self.set("num_requests_waiting", requests)

    def rejected(self, sequences: int) -> None:
        """Count sequences that were rejected for lack of slots."""
        self.refused("UNAVAILABLE", sequences)

    def withdrawn(self, sequences: int) -> None:
        """Count sequences that were cancelled."""
        self.add("request_aborted_total", sequences)

    def refused(self, kind: ErrorKind, sequences: int = 1) -> None:
        """Count sequences that were refused or failed."""
        self.add("request_failure_total", sequences, code=kind)

    def finished(self, done: Done, seconds: float) -> None:
        """Count a finished sequence that took `seconds` from its request's arrival."""
        answer = done.answer
        self.add("request_success_total", finished_reason=answer.finish_reason)
        self.add("prompt_tokens_total", answer.prompt_tokens)
        self.add("generation_tokens_total", answer.completion_tokens)
        self.observe("e2e_request_latency_seconds", seconds)
        self.observe("time_to_first_token_seconds", max(0.0, seconds - done.decode_seconds))
        if answer.completion_tokens > 1:
            self.observe("time_per_output_token_seconds", done.decode_seconds / (answer.completion_tokens - 1))

    def close(self) -> None:
        """Pass on the remaining sums, end the thread, and release Triton's objects.

        Objects that outlive Triton's connection to its server crash the stub.
        """
        self._closed.set()
        self._thread.join()
        self._metrics.clear()
        self._families.clear()

    def _add_family(self, name: str, description: str, kind: Any) -> None:
        self._families[name] = pb_utils.MetricFamily(name=f"trgen:{name}", description=description, kind=kind)

    def _flush_forever(self) -> None:
        while not self._closed.wait(_FLUSH_SECONDS):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        with self._lock:
            sums, self._sums = self._sums, defaultdict(float)
            values, self._values = self._values, {}
            observations, self._observations = self._observations, defaultdict(list)
        added = [_histogram(name, observed) for name, observed in observations.items()]
        for series, value in values.items():
            self._metric(series).set(value)
        for part in (*added, sums):
            for series, value in part.items():
                self._metric(series).increment(value)

    def _metric(self, series: _Series) -> Any:
        if series not in self._metrics:
            name, labels = series
            self._metrics[series] = self._families[name].Metric(labels=self._labels | dict(labels))
        return self._metrics[series]


def _histogram(name: str, observed: list[float]) -> dict[_Series, float]:
    """Return what observations add to the series of a histogram, whose buckets are cumulative."""
    observed.sort()
    counts = {str(bound): bisect.bisect_right(observed, bound) for bound in HISTOGRAMS[name][1]}
    counts["+Inf"] = len(observed)
    added: dict[_Series, float] = {(f"{name}_bucket", (("le", bound),)): n for bound, n in counts.items() if n}
    return added | {(f"{name}_count", ()): len(observed), (f"{name}_sum", ()): math.fsum(observed)}
