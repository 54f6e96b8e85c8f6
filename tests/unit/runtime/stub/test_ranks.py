"""Ranks as the models use them: with a real process as torchrun, only rank and leader."""

import queue
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import trition_repo_gen
from tests.unit.runtime.stub.conftest import CountedMetrics
from trition_repo_gen.runtime.common.protocol import Answer, Done, PromptLimit, Refused, SequenceRequest
from trition_repo_gen.runtime.common.settings import Settings
from trition_repo_gen.runtime.stub.ranks import Ranks, RanksError
from trition_repo_gen.runtime.stub.router import Outcome

CONNECT = f"""
import os, sys
sys.path.insert(0, {str(Path(trition_repo_gen.__file__).parents[1])!r})
import zmq
from trition_repo_gen.runtime.common.protocol import *

# One socket for what a rank sends and receives: messages of two could arrive in any order.
rank = zmq.Context().socket(zmq.DEALER)
rank.setsockopt(zmq.IDENTITY, b"rank 0")
rank.connect(os.environ[FRONTEND_VARIABLE])
rank.send(encode(Hello(0, os.getpid(), attempt=0, local=True, local_rank=0)))
"""
ANSWERS = f"""{CONNECT}
rank.send(encode(Ready(b"rank 0", groups=1, slots=4, max_sequence_length=10, max_prompt_bytes=40)))
while True:
    replies = []
    for message in decode(rank.recv()):
        if isinstance(message, Generate) and message.sequence.prompt != "never":
            answer = Answer(text="Hi", finish_reason="stop", prompt_tokens=1, completion_tokens=1)
            replies += [Deltas([(message.id, "H")]), Done(message.id, answer, rest="i")]
    rank.send(encode(replies))
"""
CANNOT_START = f"""{CONNECT}
rank.send(encode(Fatal(0, "the checkpoint is broken.")))
rank.recv()
"""


class Started:
    """Ranks, and what their callbacks receive."""

    def __init__(self, program: str, folder: Path, metrics: CountedMetrics):
        script = folder / "model.py"
        script.write_text(program)
        self.log: list[str] = []
        self.outcomes: queue.Queue[Outcome] = queue.Queue()
        self.texts: queue.Queue[str] = queue.Queue()
        settings = Settings(checkpoint="none", rank_python=sys.executable)
        self.ranks = Ranks(settings, script, self.log.append, metrics)

    def submit(self, prompt: str) -> int:
        sequence = SequenceRequest(prompt=prompt, stream=True)
        return self.ranks.submit(sequence, 0.0, self.outcomes.put, self.texts.put)


@pytest.fixture
def answering(tmp_path: Path, metrics: CountedMetrics) -> Iterator[Started]:
    started = Started(ANSWERS, tmp_path, metrics)
    try:
        limits = started.ranks.start()
        assert (limits.slots, limits.prompt_limit) == (4, PromptLimit(max_bytes=40, max_tokens=10))
        yield started
    finally:
        started.ranks.stop()


def test_sequences_receive_their_text_and_their_outcome(answering: Started) -> None:
    answering.submit("Hello")

    outcome = answering.outcomes.get(timeout=60)
    assert isinstance(outcome, Done)
    assert outcome.answer == Answer(text="Hi", finish_reason="stop", prompt_tokens=1, completion_tokens=1)
    assert answering.texts.get(timeout=60) + outcome.rest == "Hi"


def test_stopping_refuses_running_sequences_but_not_cancelled_ones(answering: Started) -> None:
    answering.ranks.cancel(answering.submit("never"))
    running = answering.submit("never")

    answering.ranks.stop()

    assert answering.outcomes.get_nowait() == Refused(running, "UNAVAILABLE", "The server is stopping.")
    assert answering.outcomes.empty()


def test_an_exception_in_a_callback_refuses_all_sequences_and_ends_the_ranks(
    answering: Started, capfd: pytest.CaptureFixture[str]
) -> None:
    running = answering.submit("never")

    def fail(text: str) -> None:
        raise ZeroDivisionError

    failed = answering.ranks.submit(SequenceRequest(prompt="Hello", stream=True), 0.0, answering.outcomes.put, fail)
    refused = [answering.outcomes.get(timeout=60) for _ in range(2)]
    later = answering.submit("Hello")
    refused.append(answering.outcomes.get(timeout=60))

    sentence = "The thread that talks to the ranks broke: ZeroDivisionError()."
    assert refused == [Refused(sequence, "UNAVAILABLE", sentence) for sequence in (running, failed, later)]
    assert sentence in answering.log
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_ranks_that_cannot_start_raise_the_reason(tmp_path: Path, metrics: CountedMetrics) -> None:
    started = Started(CANNOT_START, tmp_path, metrics)
    with pytest.raises(RanksError, match=r"Rank 0 cannot start: the checkpoint is broken\."):
        started.ranks.start()
    started.ranks.stop()
