"""A remote client and its stub server over their socket, and what they leave behind."""

import os
import queue
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from trition_repo_gen.runtime.common.protocol import Answer, Done, PromptLimit, Refused, SequenceRequest
from trition_repo_gen.runtime.stub.admission import Admission
from trition_repo_gen.runtime.stub.event_loop import EventLoop
from trition_repo_gen.runtime.stub.priority import Priorities
from trition_repo_gen.runtime.stub.remote_client import RemoteClient, StubServerGoneError
from trition_repo_gen.runtime.stub.remote_protocol import Submit, disconnected_marker, remove_leftovers, socket_path
from trition_repo_gen.runtime.stub.router import Outcome
from trition_repo_gen.runtime.stub.stub_server import RemoteSequence, StubServer

LONG_NAME = "m" * 121
DONE = Done(1, Answer(text="Hi", finish_reason="stop", prompt_tokens=1, completion_tokens=1), rest="i")


class Echo:
    """Ranks that answer every sequence with its prompt, on an event loop as the real ones do."""

    def __init__(self) -> None:
        self.loop = EventLoop("echo", on_error=traceback.print_exception)

    def submit(
        self,
        sequence: SequenceRequest,
        arrived: float,
        on_outcome: Callable[[Outcome], None],
        on_text: Callable[[str], None],
    ) -> int:
        def answer() -> None:
            on_text(sequence.prompt[:1])
            text = Answer(text=sequence.prompt, finish_reason="stop", prompt_tokens=1, completion_tokens=1)
            on_outcome(Done(0, text, rest=sequence.prompt[1:]))

        self.loop.run_soon(answer)
        return 0


@pytest.fixture
def admission() -> Iterator[Admission]:
    admission = Admission(slots=1, max_waiting=0)
    yield admission
    admission.close()


@pytest.fixture
def name() -> str:
    """A model's name that no other test has, and as long as a file's name may be with a few characters around it."""
    return f"{uuid.uuid4().hex}{'m' * 89}"


def test_a_remote_client_uses_the_ranks_of_the_stub_server_however_long_the_models_name_is(
    name: str, admission: Admission
) -> None:
    assert len(name) == 121
    ranks = Echo()
    server = StubServer(name, 1, ranks, Priorities(levels=3, default=2), queue_timeout=60)  # type: ignore[arg-type]
    ranks.loop.start()
    server.open(admission, PromptLimit(1000, 10))
    client = RemoteClient(name, 1, print)
    try:
        assert client.start(timeout=60) == PromptLimit(1000, 10)
        outcomes: queue.Queue[Outcome] = queue.Queue()
        texts: list[str] = []
        for prompt, priority in (("Hello", None), ("Bonjour", 3)):  # one slot: the second finds it given back
            client.submit(SequenceRequest(prompt=prompt, stream=True), priority, outcomes.put, texts.append)
            outcome = outcomes.get(timeout=60)
            assert isinstance(outcome, Done)
            texts.append(outcome.rest)
        assert "".join(texts) == "HelloBonjour"
        client.submit(SequenceRequest(prompt="Hi"), 4, outcomes.put, texts.append)
        outcome = outcomes.get(timeout=60)
        assert isinstance(outcome, Refused)
        assert outcome.message == "queue_priority is 4; it has to be a whole number from 1 to 3."
    finally:
        client.stop()
        server.close()
        ranks.loop.stop()
    assert not socket_path(os.getppid(), name, 1).exists()


def test_nothing_is_lost_on_the_way_to_a_remote_client_that_reads_late(name: str, admission: Admission) -> None:
    many = 10_000  # far more than ZeroMQ keeps by itself
    sent = threading.Event()

    class Talker(Echo):
        def submit(
            self,
            sequence: SequenceRequest,
            arrived: float,
            on_outcome: Callable[[Outcome], None],
            on_text: Callable[[str], None],
        ) -> int:
            def talk(left: int) -> None:
                on_text("x")
                # A timer for each text: those of one turn of the loop would go in one frame.
                self.loop.call_at(time.monotonic(), partial(talk, left - 1) if left > 1 else end)

            def end() -> None:
                on_outcome(DONE)
                self.loop.run_soon(sent.set)

            self.loop.run_soon(partial(talk, many))
            return 0

    ranks = Talker()
    server = StubServer(name, 1, ranks, Priorities(levels=1, default=1), queue_timeout=60)  # type: ignore[arg-type]
    ranks.loop.start()
    server.open(admission, PromptLimit(1000, 10))
    client = RemoteClient(name, 1, print)
    texts: list[str] = []
    done = threading.Event()

    def receive(text: str) -> None:
        assert sent.wait(60)
        texts.append(text)

    try:
        client.start(timeout=60)
        client.submit(SequenceRequest(prompt="Hello", stream=True), None, lambda outcome: done.set(), receive)
        assert done.wait(60)
        assert len(texts) == many
    finally:
        client.stop()
        server.close()
        ranks.loop.stop()


def test_an_exception_in_a_callback_refuses_all_sequences_and_the_client_goes_on(
    name: str, admission: Admission
) -> None:
    ranks = Echo()
    server = StubServer(name, 1, ranks, Priorities(levels=1, default=1), queue_timeout=60)  # type: ignore[arg-type]
    ranks.loop.start()
    server.open(admission, PromptLimit(1000, 10))
    client = RemoteClient(name, 1, print)
    outcomes: queue.Queue[Outcome] = queue.Queue()

    def break_down(text: str) -> None:
        raise ZeroDivisionError

    try:
        client.start(timeout=60)
        client.submit(SequenceRequest(prompt="Hello", stream=True), None, outcomes.put, break_down)
        refused = outcomes.get(timeout=60)
        assert isinstance(refused, Refused)
        assert "broke: ZeroDivisionError()" in refused.message
        client.submit(SequenceRequest(prompt="Hello"), None, outcomes.put, lambda text: None)
        assert isinstance(outcomes.get(timeout=60), Done)
    finally:
        client.stop()
        server.close()
        ranks.loop.stop()


def test_a_remote_client_does_not_wait_for_a_model_that_cannot_load(name: str) -> None:
    StubServer(name, 1, Echo(), Priorities(levels=1, default=1), queue_timeout=60).mark_failed()  # type: ignore[arg-type]
    client = RemoteClient(name, 1, print)
    with pytest.raises(StubServerGoneError, match="load it as well"):
        client.start(timeout=60)
    disconnected_marker(socket_path(os.getppid(), name, 1)).unlink()


def test_socket_paths_are_short_and_differ_by_server_model_and_version() -> None:
    paths = {socket_path(server, model, 1) for server in (4_000_000, 4_000_001) for model in ("a", LONG_NAME)}
    paths |= {socket_path(4_000_000, "a", 11), socket_path(4_000_000, "a1", 1)}
    assert len(paths) == 6
    assert all(len(path.name) < 50 for path in paths)


def test_files_of_servers_that_have_ended_are_removed(name: str) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = disconnected_marker(socket_path(ended.pid, name, 1))
    left.touch()
    present = socket_path(os.getpid(), name, 1)
    present.touch()

    remove_leftovers(socket_path(os.getppid(), name, 1))

    assert not left.exists()
    assert present.exists()
    present.unlink()


class Recorder:
    """Stub server and ranks of a sequence: notes what it calls."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def submit(self, *arguments: object) -> int:
        return 7

    def cancel(self, sequence_id: int) -> None:
        self.notes.append(f"cancel {sequence_id}")

    def settle(self, identity: bytes, message: object) -> None:
        self.notes.append(type(message).__name__)


class Next:
    """A request that notes that it was admitted."""

    slots = 1
    priority = 1
    queue_deadline = float("inf")

    def __init__(self, notes: list[str]):
        self._notes = notes

    def start(self) -> None:
        self._notes.append("next admitted")

    def reject(self, sentence: str) -> None:
        pass


def sequence_of(seen: Recorder, admission: Admission) -> RemoteSequence:
    submit = Submit(1, SequenceRequest(prompt="a"))
    return RemoteSequence(seen, b"client", submit, admission, seen, 1, queue_timeout=60)  # type: ignore[arg-type]


@pytest.mark.parametrize("ends", [("settle", "cancel"), ("cancel", "settle"), ("cancel", "cancel")])
def test_a_sequence_that_ends_twice_frees_its_slot_once(ends: tuple[str, ...], admission: Admission) -> None:
    """A remote client's cancellation may arrive after the answer was sent and before the client received it."""
    seen = Recorder()
    sequence = sequence_of(seen, admission)
    admission.enter(sequence)
    for _ in range(2):
        admission.enter(Next(seen.notes))

    for end in ends:
        if end == "settle":
            sequence.settle(DONE)
        else:
            sequence.cancel()

    assert seen.notes.count("next admitted") == 1
    assert sorted({*seen.notes} - {"next admitted"}) == (["Done"] if ends[0] == "settle" else ["cancel 7"])


def test_a_sequence_that_is_cancelled_while_it_waits_never_starts(admission: Admission) -> None:
    seen = Recorder()
    admission.enter(Next(seen.notes))
    sequence = sequence_of(seen, admission)
    admission.enter(sequence)

    sequence.cancel()
    sequence.reject("too late")
    admission.leave(1)
    admission.enter(Next(seen.notes))

    assert seen.notes == ["next admitted", "next admitted"]
