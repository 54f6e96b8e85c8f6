"""Admission: order, bounds, timeouts, and that every request ends up in or turned away."""

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from trition_repo_gen.runtime.stub.admission import Admission, Observer


class Request:
    def __init__(
        self, events: "queue.Queue[str]", name: str, slots: int = 1, queue_timeout: float = math.inf, priority: int = 1
    ):
        self.name = name
        self.priority = priority
        self.slots = slots
        self.queue_deadline = time.monotonic() + queue_timeout
        self._events = events

    def start(self) -> None:
        self._events.put(f"{self.name} in")

    def reject(self, sentence: str) -> None:
        self._events.put(f"{self.name} away: {sentence}")


Make = Callable[..., Request]


@pytest.fixture
def events() -> "queue.Queue[str]":
    return queue.Queue()


@pytest.fixture
def request_(events: "queue.Queue[str]") -> Make:
    return lambda *args, **kwargs: Request(events, *args, **kwargs)


@pytest.fixture
def two_places() -> Iterator[Admission]:
    admission = Admission(slots=2, max_waiting=2)
    yield admission
    admission.close()


def drain(events: "queue.Queue[str]") -> list[str]:
    return [events.get_nowait() for _ in range(events.qsize())]


def test_requests_go_in_while_there_are_places_and_then_in_order(
    two_places: Admission, request_: Make, events: "queue.Queue[str]"
) -> None:
    for name in "abcd":
        two_places.enter(request_(name))
    assert drain(events) == ["a in", "b in"]
    two_places.leave(1)
    assert drain(events) == ["c in"]
    two_places.leave(2)
    assert drain(events) == ["d in"]


def test_a_small_request_does_not_pass_a_large_one_that_waits(
    two_places: Admission, request_: Make, events: "queue.Queue[str]"
) -> None:
    two_places.enter(request_("a"))
    two_places.enter(request_("large", slots=2))
    two_places.enter(request_("small"))
    assert drain(events) == ["a in"]
    two_places.leave(1)
    assert drain(events) == ["large in"]
    two_places.leave(2)
    assert drain(events) == ["small in"]


def test_the_more_urgent_go_first_and_those_alike_in_order(request_: Make, events: "queue.Queue[str]") -> None:
    admission = Admission(slots=1, max_waiting=0)
    admission.enter(request_("a", priority=3))
    for name, priority in (("b2", 2), ("c3", 3), ("d1", 1), ("e2", 2), ("f1", 1)):
        admission.enter(request_(name, priority=priority))
    for _ in range(6):
        admission.leave(1)
    admission.close()
    assert drain(events) == ["a in", "d1 in", "f1 in", "b2 in", "e2 in", "c3 in"]


def test_a_more_urgent_request_passes_one_that_waits_for_many_places(
    two_places: Admission, request_: Make, events: "queue.Queue[str]"
) -> None:
    two_places.enter(request_("a", priority=2))
    two_places.enter(request_("large", slots=2, priority=2))
    two_places.enter(request_("urgent", priority=1))
    assert drain(events) == ["a in", "urgent in"]
    two_places.leave(2)
    assert drain(events) == ["large in"]


def test_a_request_larger_than_all_places_goes_in_alone(
    two_places: Admission, request_: Make, events: "queue.Queue[str]"
) -> None:
    two_places.enter(request_("huge", slots=5))
    two_places.enter(request_("small"))
    assert drain(events) == ["huge in"]
    two_places.leave(5)
    assert drain(events) == ["small in"]


def test_more_than_may_wait_are_turned_away_at_once(
    two_places: Admission, request_: Make, events: "queue.Queue[str]"
) -> None:
    for name in "abcde":
        two_places.enter(request_(name))
    assert drain(events)[2:] == ["e away: The server is full and 2 requests wait already; try again later. [busy]"]


def test_a_request_waits_no_longer_than_it_wants_to(
    two_places: Admission, request_: Make, events: "queue.Queue[str]"
) -> None:
    two_places.enter(request_("large", slots=2))
    two_places.enter(request_("patient"))
    two_places.enter(request_("late", queue_timeout=0.01))
    assert events.get() == "large in"
    assert events.get(timeout=60).startswith("late away: The server was full for as long as")
    two_places.leave(2)
    assert drain(events) == ["patient in"]


def test_those_behind_one_who_gave_up_go_in(two_places: Admission, request_: Make, events: "queue.Queue[str]") -> None:
    two_places.enter(request_("small"))
    two_places.enter(request_("large", slots=2, queue_timeout=0.01))
    two_places.enter(request_("patient"))
    assert events.get() == "small in"
    assert events.get(timeout=60).startswith("large away")
    assert events.get(timeout=60) == "patient in"


def test_who_waits_when_the_server_stops_is_told(request_: Make, events: "queue.Queue[str]") -> None:
    admission = Admission(slots=1, max_waiting=0)
    for name in "abc":
        admission.enter(request_(name))
    admission.close()
    assert drain(events) == ["a in", "b away: The server is stopping.", "c away: The server is stopping."]


def test_an_observer_learns_what_became_of_those_who_wait(request_: Make, events: "queue.Queue[str]") -> None:
    class Notes(Observer):
        def waiting(self, requests: int) -> None:
            events.put(f"{requests} wait")

        def rejected(self, sequences: int) -> None:
            events.put(f"{sequences} turned away")

        def withdrawn(self, sequences: int) -> None:
            events.put(f"{sequences} withdrawn")

    admission = Admission(slots=1, max_waiting=1, observer=Notes())
    waiting = request_("b", slots=3)
    admission.enter(request_("a"))
    admission.enter(waiting)
    admission.enter(request_("c", slots=2))
    assert admission.withdraw(waiting)
    assert not admission.withdraw(waiting)
    admission.close()
    assert [event.partition(":")[0] for event in drain(events)] == [
        "a in",
        "1 wait",
        "2 turned away",
        "c away",
        "3 withdrawn",
        "0 wait",
    ]


def test_places_are_neither_lost_nor_made_up(events: "queue.Queue[str]") -> None:
    admission = Admission(slots=3, max_waiting=0)
    lock = threading.Lock()
    inside = most = 0

    class Visitor(Request):
        def start(self) -> None:
            nonlocal inside, most
            with lock:
                inside += self.slots
                most = max(most, inside)
            threading.Thread(target=self.go).start()

        def go(self) -> None:
            nonlocal inside
            with lock:
                inside -= self.slots
            admission.leave(self.slots)
            super().start()

    for index in range(300):
        admission.enter(Visitor(events, str(index), slots=1 + index % 3))
    assert {events.get(timeout=60) for _ in range(300)} == {f"{index} in" for index in range(300)}
    admission.close()
    assert (most, inside) == (3, 0)
