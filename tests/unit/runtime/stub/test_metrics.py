import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from trition_repo_gen.runtime.stub import metrics


def test_closing_passes_on_all_sums_and_releases_the_objects_of_triton(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    received: list[tuple[dict[str, str], float]] = []
    alive: list[weakref.ref[Any]] = []

    class Metric:
        def __init__(self, labels: dict[str, str]):
            self._labels = labels
            alive.append(weakref.ref(self))

        def increment(self, value: float) -> None:
            received.append((self._labels, value))

        def set(self, value: float) -> None:
            received.append((self._labels, value))

    class MetricFamily:
        COUNTER = GAUGE = None

        def __init__(self, **_: Any):
            self.Metric = Metric
            alive.append(weakref.ref(self))

    monkeypatch.setattr(metrics, "pb_utils", SimpleNamespace(MetricFamily=MetricFamily))
    counts = metrics.Metrics("llama", "1")
    counts.refused("INVALID_ARG", 2)
    counts.refused("INVALID_ARG")
    counts.close()

    assert ({"model": "llama", "version": "1", "code": "INVALID_ARG"}, 3.0) in received
    assert len(alive) > 10
    assert [reference for reference in alive if reference() is not None] == []
