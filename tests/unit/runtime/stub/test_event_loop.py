"""The event loop on real sockets, descriptors and processes: what wakes it, in which order, and what it survives."""

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import zmq

from trition_repo_gen.runtime.common.sockets import new_socket
from trition_repo_gen.runtime.stub.event_loop import EventLoop

SECONDS = 60


class Events(queue.Queue[str]):
    """What callbacks have noted, in order."""

    def next(self, count: int = 1) -> list[str]:
        return [self.get(timeout=SECONDS) for _ in range(count)]


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def loop(events: Events) -> Iterator[EventLoop]:
    loop = EventLoop("test", on_error=lambda error: events.put(f"error {error}"), on_stop=lambda: events.put("stopped"))
    yield loop
    loop.stop()


def test_actions_run_in_order_on_the_loops_thread_also_those_from_before_the_start(
    loop: EventLoop, events: Events
) -> None:
    loop.run_soon(lambda: events.put(threading.current_thread().name))
    loop.run_soon(lambda: events.put("second"))
    loop.start()
    loop.run_soon(lambda: events.put("third"))

    assert events.next(3) == ["test", "second", "third"]


def test_a_socket_is_read_until_it_is_not_watched_any_more(loop: EventLoop, events: Events) -> None:
    receiver, sender = new_socket(zmq.PULL), new_socket(zmq.PUSH)
    receiver.bind("inproc://event-loop-test")
    sender.connect("inproc://event-loop-test")

    def receive() -> None:
        text = receiver.recv().decode()
        if text == "last":
            loop.unwatch(receiver)
        events.put(text)

    loop.run_soon(lambda: loop.watch(receiver, receive))
    loop.start()
    for text in (b"first", b"second", b"last", b"unread"):
        sender.send(text)

    assert events.next(3) == ["first", "second", "last"]
    loop.run_soon(lambda: events.put(str(receiver.poll(0))))
    assert events.next() == ["1"]
    receiver.close()
    sender.close()


def test_the_end_of_a_process_is_reported_once(loop: EventLoop, events: Events) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    descriptor = os.pidfd_open(process.pid)

    def ended() -> None:
        loop.unwatch(descriptor)
        events.put(f"exit code {process.wait()}")

    loop.run_soon(lambda: loop.watch(descriptor, ended))
    loop.start()
    process.communicate(b"\n")

    assert events.next() == ["exit code 0"]
    loop.run_soon(lambda: events.put("next"))
    assert events.next() == ["next"]
    os.close(descriptor)


def test_a_descriptor_that_another_callback_replaces_is_not_taken_for_the_new_one(
    loop: EventLoop, events: Events
) -> None:
    """Both are readable; the callback of the first closes the second, whose number then belongs to a third."""
    first, second = (os.eventfd(1, os.EFD_NONBLOCK) for _ in range(2))

    def replace_second() -> None:
        loop.unwatch(first)
        loop.unwatch(second)
        os.close(second)
        third = os.eventfd(0, os.EFD_NONBLOCK)
        assert third == second
        loop.watch(third, lambda: events.put("third, which is not readable"))
        events.put("replaced")

    def watch_both() -> None:
        loop.watch(first, replace_second)
        loop.watch(second, lambda: events.put("second"))

    loop.run_soon(watch_both)
    loop.start()

    assert events.next() == ["replaced"]
    loop.run_soon(lambda: loop.unwatch(second))
    loop.run_soon(lambda: events.put("next"))
    assert events.next() == ["next"]
    os.close(first)
    os.close(second)


def test_timers_run_by_time_and_not_when_they_are_cancelled(loop: EventLoop, events: Events) -> None:
    def set_timers() -> None:
        now = time.monotonic()
        loop.call_at(now + 0.02, lambda: events.put("second"))
        loop.call_at(now + 0.01, lambda: events.put("cancelled")).cancel()
        loop.call_at(now, lambda: events.put("first"))
        loop.call_at(now + 0.03, lambda: events.put("third"))
        loop.call_at(now + 3600, lambda: events.put("too early"))

    loop.run_soon(set_timers)
    loop.start()

    assert events.next(3) == ["first", "second", "third"]


def test_a_timer_that_sets_another_lets_the_loop_do_everything_else_in_between(loop: EventLoop, events: Events) -> None:
    done = threading.Event()

    def again() -> None:
        if not done.is_set():
            loop.call_at(0.0, again)

    loop.run_soon(again)
    loop.start()
    loop.run_soon(done.set)

    assert done.wait(SECONDS)


def test_what_is_left_for_the_end_of_a_turn_runs_once_after_its_actions_and_timers(
    loop: EventLoop, events: Events
) -> None:
    def act() -> None:
        loop.at_turn_end(lambda: events.put("end of turn"))
        loop.call_at(0.0, lambda: events.put("timer"))
        loop.run_soon(lambda: events.put("action that was added meanwhile"))
        events.put("action")

    loop.run_soon(act)
    loop.start()

    assert events.next(4) == ["action", "action that was added meanwhile", "timer", "end of turn"]
    loop.run_soon(lambda: events.put("next"))
    assert events.next() == ["next"]


@pytest.mark.parametrize("where", ["action", "watch", "timer", "turn end"])
def test_an_exception_is_reported_and_the_rest_runs_after_it(where: str, loop: EventLoop, events: Events) -> None:
    descriptor = os.eventfd(1, os.EFD_NONBLOCK)

    def fail() -> None:
        raise ValueError(where)

    def fail_once() -> None:
        loop.unwatch(descriptor)
        fail()

    def act() -> None:
        match where:
            case "action":
                loop.run_soon(fail)
            case "watch":
                loop.watch(descriptor, fail_once)
            case "timer":
                loop.call_at(0.0, fail)
            case "turn end":
                loop.at_turn_end(fail)
        loop.call_at(time.monotonic(), lambda: events.put("timer"))
        loop.at_turn_end(lambda: events.put("end of turn"))

    loop.run_soon(act)
    loop.start()

    assert sorted(events.next(3)) == ["end of turn", f"error {where}", "timer"]
    os.close(descriptor)


def test_stopping_runs_what_was_added_before_and_then_on_stop(loop: EventLoop, events: Events) -> None:
    loop.start()
    loop.run_soon(lambda: events.put("action"))
    loop.stop()

    assert events.next(2) == ["action", "stopped"]
