import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from trition_repo_gen.runtime.stub import metrics


def test_sums_are_handed_over_before_the_end_and_nothing_of_triton_is_kept_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[dict[str, str], float]] = []
    alive: list[weakref.ref[Any]] = []

    class Metric:
        def __init__(self, labels: dict[str, str]):
            self._labels = labels
            alive.append(weakref.ref(self))

        def increment(self, value: float) -> None:
            told.append((self._labels, value))

        def set(self, value: float) -> None:
            told.append((self._labels, value))

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

    assert ({"model": "llama", "version": "1", "code": "INVALID_ARG"}, 3.0) in told
    assert len(alive) > 10
    assert [reference for reference in alive if reference() is not None] == []
