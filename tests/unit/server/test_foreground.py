"""Signals end the wait; they do not interrupt anything."""

import os
import signal

import pytest

from trition_repo_gen.server.descendants import wait_for
from trition_repo_gen.server.foreground import caught_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_becomes_readable_and_can_be_taken(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with caught_signals() as signals:
        assert signals.take() is None
        os.kill(os.getpid(), number)
        assert wait_for([signals.fileno()], 60) == [signals.fileno()]
        assert signals.take() == number
        assert signals.take() is None
    assert signal.getsignal(number) == before


def test_the_first_of_several_counts() -> None:
    with caught_signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for([signals.fileno()], 60)
        assert signals.take() == signal.SIGINT


def test_an_ignored_hangup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with caught_signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            wait_for([signals.fileno()], 60)
            assert signals.take() == signal.SIGTERM
    finally:
        signal.signal(signal.SIGHUP, before)
