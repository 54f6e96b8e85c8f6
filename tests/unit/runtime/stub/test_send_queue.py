import threading

import pytest

from trition_repo_gen.runtime.stub.send_queue import Outbox


def test_a_lane_keeps_the_order_and_is_emptied_before_it_ends() -> None:
    outbox, done = Outbox(), []
    lane, gate = outbox.lane(), threading.Event()
    lane.put(gate.wait)
    for number in range(100):
        lane.put(lambda number=number: done.append(number))
    assert done == []
    gate.set()
    outbox.close()
    assert done == list(range(100))


def test_a_lane_that_waits_leaves_the_others_alone() -> None:
    outbox, gate, done = Outbox(), threading.Event(), threading.Event()
    outbox.lane().put(gate.wait)
    outbox.lane().put(done.set)
    assert done.wait(10)
    gate.set()
    outbox.close()


def test_what_fails_is_reported_and_the_next_is_done(capfd: pytest.CaptureFixture[str]) -> None:
    outbox, done = Outbox(), []
    lane = outbox.lane()
    lane.put(lambda: 1 // 0)
    lane.put(lambda: done.append(1))
    outbox.close()
    assert done == [1]
    assert "ZeroDivisionError" in capfd.readouterr().err
