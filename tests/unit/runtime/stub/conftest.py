"""Modules of Triton's stub import what Triton puts on its path: the module of the installed tritonserver."""

import queue
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

_pytriton = find_spec("pytriton")
assert _pytriton is not None
assert _pytriton.submodule_search_locations is not None
sys.path.append(f"{_pytriton.submodule_search_locations[0]}/tritonserver/backends/python")

from trition_repo_gen.runtime.stub import metrics as metrics_module  # noqa: E402
from trition_repo_gen.runtime.stub.event_loop import EventLoop  # noqa: E402
from trition_repo_gen.runtime.stub.metrics import Metrics  # noqa: E402


class Loop(EventLoop):
    """An event loop on which a test can call something and wait for its end; an exception fails the test there."""

    def __init__(self) -> None:
        super().__init__("test", on_error=self._note)
        self._errors: queue.SimpleQueue[Exception] = queue.SimpleQueue()

    def call(self, action: Callable[[], object]) -> None:
        """Run an action, and wait until its turn of the loop is over."""
        done = threading.Event()
        self.run_soon(action)
        self.run_soon(lambda: self.at_turn_end(done.set))
        assert done.wait(60)
        self.check()

    def check(self) -> None:
        """Raise what a callback has raised."""
        if not self._errors.empty():
            raise self._errors.get()

    def _note(self, error: Exception) -> None:
        self._errors.put(error)


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    loop.start()
    yield loop
    loop.stop()
    loop.check()


class CountedMetrics(Metrics):
    """Metrics of which a test can read what Triton has received."""

    def __init__(self, received: defaultdict[str, float]):
        super().__init__("llama", "1")
        self._received = received

    def read(self) -> dict[str, float]:
        """Return the values by name and own labels, such as `request_failure_total INTERNAL`; nothing follows."""
        self.close()
        return dict(self._received)


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Iterator[CountedMetrics]:
    """Metrics as in the stub; Triton's half of them, which exists only there, adds up."""
    received: defaultdict[str, float] = defaultdict(float)

    class MetricFamily:
        COUNTER = GAUGE = None

        def __init__(self, name: str, **_: Any):
            self._name = name.removeprefix("trgen:")

        def Metric(self, labels: dict[str, str]) -> SimpleNamespace:  # noqa: N802
            own = [value for label, value in labels.items() if label not in ("model", "version")]
            name = " ".join([self._name, *own])

            def increment(value: float) -> None:
                received[name] += value

            def set_(value: float) -> None:
                received[name] = value

            return SimpleNamespace(increment=increment, set=set_)

    monkeypatch.setattr(metrics_module, "pb_utils", SimpleNamespace(MetricFamily=MetricFamily))
    metrics = CountedMetrics(received)
    yield metrics
    metrics.close()
