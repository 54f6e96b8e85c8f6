"""Which leader a sequence goes to, what comes back of it, and what is counted."""

import queue
from functools import partial
from typing import Any

import pytest

from tests.unit.runtime.stub.conftest import CountedMetrics, Loop
from trition_repo_gen.runtime.common.protocol import Answer, Cancel, Deltas, Done, Generate, Ready, SequenceRequest
from trition_repo_gen.runtime.stub.router import Leader, Outcome, Router, Submission


class Routing:
    """A router, what it sends, and what its callers receive."""

    def __init__(self, loop: Loop, metrics: CountedMetrics):
        self.router = Router(loop, self._send, metrics, "Not yet.")
        self.frames: list[tuple[bytes, Any]] = []
        self.texts: list[tuple[int, str]] = []
        self.outcomes: queue.Queue[str] = queue.Queue()
        self._loop = loop

    def leader(self, name: str, slots: int) -> Leader:
        ready = Ready(name.encode(), groups=2, slots=slots, max_sequence_length=100, max_prompt_bytes=400)
        return Leader(name.encode(), f"{name} inbox".encode(), ready)

    def submit(self, *ids: int) -> None:
        """Submit sequences in one turn of the loop."""

        def submit_all() -> None:
            for sequence_id in ids:
                sequence = SequenceRequest(prompt="Hello", stream=True)
                on_text = partial(self._on_text, sequence_id)
                self.router.submit(Submission(sequence_id, sequence, self._on_outcome, on_text, arrived=0.0))

        self.call(submit_all)

    def call(self, method: Any, *args: Any) -> None:
        self._loop.call(partial(method, *args))

    def sent(self) -> list[tuple[str, list[str]]]:
        """Return the frames since the last call: the leader, and what its messages are about."""
        frames, self.frames = self.frames, []
        return [
            (
                inbox.decode().split()[0],
                [f"{'end ' if isinstance(message, Cancel) else ''}{message.id}" for message in messages],
            )
            for inbox, messages in frames
        ]

    def _on_text(self, sequence_id: int, text: str) -> None:
        self.texts.append((sequence_id, text))

    def _on_outcome(self, outcome: Outcome) -> None:
        self.outcomes.put("done" if isinstance(outcome, Done) else f"{outcome.kind} {outcome.message}")

    def _send(self, inbox: bytes, message: list[Generate | Cancel]) -> None:
        self.frames.append((inbox, message))


@pytest.fixture
def routing(loop: Loop, metrics: CountedMetrics) -> Routing:
    return Routing(loop, metrics)


def done(sequence_id: int) -> Done:
    answer = Answer(text="Hi", finish_reason="stop", prompt_tokens=3, completion_tokens=2)
    return Done(sequence_id, answer, decode_seconds=0.5)


def test_each_sequence_goes_to_the_leader_with_the_smallest_share_of_its_slots_in_use(routing: Routing) -> None:
    routing.call(routing.router.open, [routing.leader("small", slots=1), routing.leader("large", slots=3)])

    routing.submit(1, 2, 3, 4)
    assert routing.sent() == [("small", ["1"]), ("large", ["2", "3", "4"])]  # one frame for all of a turn

    routing.call(routing.router.settle, b"large", done(2))
    routing.call(routing.router.settle, b"small", done(1))
    routing.submit(5)
    assert routing.sent() == [("small", ["5"])]


def test_text_and_outcomes_go_to_the_sequence_they_are_of(routing: Routing, metrics: CountedMetrics) -> None:
    routing.call(routing.router.open, [routing.leader("a", slots=4)])
    routing.submit(1, 2)

    routing.call(routing.router.pass_text, Deltas([(1, "x"), (2, "y"), (7, "of nobody"), (1, "z")]))
    routing.call(routing.router.settle, b"a", done(1))
    routing.call(routing.router.pass_text, Deltas([(1, "too late")]))
    routing.call(routing.router.settle, b"a", done(1))

    assert routing.texts == [(1, "x"), (2, "y"), (1, "z")]
    assert routing.outcomes.get(timeout=60) == "done"
    assert routing.outcomes.empty()
    counted = metrics.read()
    assert counted["num_requests_running"] == 1
    assert counted["request_success_total stop"] == 1
    assert counted["prompt_tokens_total"] == 3
    assert counted["generation_tokens_total"] == 2


def test_a_cancelled_sequence_is_ended_at_its_leader_and_reports_nothing(
    routing: Routing, metrics: CountedMetrics
) -> None:
    routing.call(routing.router.open, [routing.leader("a", slots=1), routing.leader("b", slots=1)])
    routing.submit(1, 2)
    routing.sent()

    routing.call(routing.router.cancel, 2)
    routing.call(routing.router.cancel, 2)
    routing.call(routing.router.settle, b"b", done(2))

    assert routing.sent() == [("b", ["end 2"])]
    assert routing.outcomes.empty()
    counted = metrics.read()
    assert counted["request_aborted_total"] == 1
    assert counted["num_requests_running"] == 1


def test_without_leaders_sequences_are_refused_with_the_reason(routing: Routing, metrics: CountedMetrics) -> None:
    routing.submit(1)
    routing.call(routing.router.open, [routing.leader("a", slots=2)])
    routing.submit(2, 3)
    routing.call(routing.router.note_usage, b"a", 0.75)
    routing.call(routing.router.close, "The ranks are gone.")
    routing.submit(4)
    routing.call(routing.router.open, [routing.leader("b", slots=2)])
    routing.call(routing.router.note_usage, b"a", 0.75)  # of a leader that is none any more
    routing.submit(5)
    routing.call(routing.router.settle, b"b", done(5))

    outcomes = [routing.outcomes.get(timeout=60) for _ in range(5)]
    assert outcomes == ["UNAVAILABLE Not yet.", *["UNAVAILABLE The ranks are gone."] * 3, "done"]
    counted = metrics.read()
    assert counted["request_failure_total UNAVAILABLE"] == 4
    assert counted["num_requests_running"] == counted["kv_cache_usage_perc"] == 0


def test_the_fullest_kv_cache_is_shown(routing: Routing, metrics: CountedMetrics) -> None:
    routing.call(routing.router.open, [routing.leader("a", slots=1), routing.leader("b", slots=1)])
    routing.call(routing.router.note_usage, b"a", 0.25)
    routing.call(routing.router.note_usage, b"b", 0.5)
    routing.call(routing.router.note_usage, b"a", 0.125)

    assert metrics.read()["kv_cache_usage_perc"] == 0.5
