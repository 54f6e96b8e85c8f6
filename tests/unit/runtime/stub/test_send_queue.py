import functools
import threading

import pytest

from trition_repo_gen.runtime.stub.send_queue import SendQueues


def test_a_send_queue_keeps_the_order_and_is_emptied_before_it_ends() -> None:
    done: list[int] = []
    send_queues = SendQueues()
    send_queue, gate = send_queues.send_queue(), threading.Event()
    send_queue.put(gate.wait)
    for number in range(100):
        send_queue.put(functools.partial(done.append, number))
    assert done == []
    gate.set()
    send_queues.close()
    assert done == list(range(100))


def test_a_blocked_send_queue_does_not_block_the_others() -> None:
    send_queues, gate, done = SendQueues(), threading.Event(), threading.Event()
    send_queues.send_queue().put(gate.wait)
    send_queues.send_queue().put(done.set)
    assert done.wait(10)
    gate.set()
    send_queues.close()


def test_an_exception_is_reported_and_the_next_action_runs(capfd: pytest.CaptureFixture[str]) -> None:
    send_queues, done = SendQueues(), []
    send_queue = send_queues.send_queue()
    send_queue.put(lambda: 1 // 0)
    send_queue.put(lambda: done.append(1))
    send_queues.close()
    assert done == [1]
    assert "ZeroDivisionError" in capfd.readouterr().err
