import threading

import pytest
import zmq

from trition_repo_gen.runtime.common.mailbox import Mailbox


def test_a_poller_wakes_while_there_are_items_and_only_then() -> None:
    mailbox: Mailbox[str] = Mailbox()
    poller = zmq.Poller()
    poller.register(mailbox, zmq.POLLIN)
    assert not poller.poll(0)

    def put() -> None:
        mailbox.put("a")
        mailbox.put("b")

    thread = threading.Thread(target=put)
    thread.start()

    taken: list[str] = []
    while len(taken) < 2:
        assert poller.poll(60_000)
        taken += mailbox.take_all()
    assert taken == ["a", "b"]
    thread.join()
    assert list(mailbox.take_all()) == []  # the event may have been set once more
    assert not poller.poll(0)


def test_items_added_while_taking_are_taken_too() -> None:
    mailbox: Mailbox[int] = Mailbox()
    mailbox.put(0)

    for taken in mailbox.take_all():
        if taken < 3:
            mailbox.put(taken + 1)

    assert taken == 3


def test_a_poller_wakes_for_items_that_an_exception_left_over() -> None:
    mailbox: Mailbox[int] = Mailbox()
    poller = zmq.Poller()
    poller.register(mailbox, zmq.POLLIN)
    for item in range(3):
        mailbox.put(item)

    with pytest.raises(ZeroDivisionError):
        for item in mailbox.take_all():
            print(1 // item)

    assert poller.poll(60_000)
    assert list(mailbox.take_all()) == [1, 2]
    assert not poller.poll(0)


def test_nothing_is_lost_between_threads() -> None:
    mailbox: Mailbox[int] = Mailbox()
    poller = zmq.Poller()
    poller.register(mailbox, zmq.POLLIN)

    def put() -> None:
        for i in range(1000):
            mailbox.put(i)

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()

    taken: list[int] = []
    while len(taken) < 4000:
        assert poller.poll(60_000)
        taken += mailbox.take_all()

    assert sorted(taken) == sorted(list(range(1000)) * 4)
    for thread in threads:
        thread.join()
