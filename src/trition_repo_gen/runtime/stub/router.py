"""Distributes sequences over the leader ranks, and passes their text and outcomes to the callbacks."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..common.protocol import Cancel, Deltas, Done, Generate, Ready, Refused, SequenceRequest
from .event_loop import EventLoop
from .metrics import Metrics

Outcome = Done | Refused
OnOutcome = Callable[[Outcome], None]
OnText = Callable[[str], None]


@dataclass(frozen=True)
class Leader:
    """A rank that takes sequences for its group.

    It has two sockets: messages come from `connection`, and requests go to `inbox`. Both are ZeroMQ identities.
    """

    connection: bytes
    inbox: bytes
    ready: Ready


@dataclass(frozen=True, slots=True)
class Submission:
    """A sequence, and what to call with its text and its outcome. `arrived`: its request's, on the monotonic clock."""

    id: int
    sequence: SequenceRequest
    on_outcome: OnOutcome
    on_text: OnText | None
    arrived: float


@dataclass
class _Load:
    """The load of a leader."""

    leader: Leader
    sequences: set[int] = field(default_factory=set)
    kv_cache_usage: float = 0.0


class Router:
    """Distributes sequences over the leaders: each goes to the one with the smallest share of its slots in use.

    All methods are called on the loop's thread, and callbacks run there. What goes to one inbox in a turn of the loop
    goes in one frame.

    Args:
        loop: the event loop.
        send: sends messages to the socket with the given identity, in one frame.
        metrics: counts sequences.
        unavailable: the sentence that refuses sequences until `open`.
    """

    def __init__(self, loop: EventLoop, send: Callable[[bytes, Any], None], metrics: Metrics, unavailable: str):
        self._loop = loop
        self._send = send
        self._metrics = metrics
        self._unavailable = unavailable
        self._loads: dict[bytes, _Load] = {}
        """By the leader's connection; empty while sequences are refused."""
        self._pending: dict[int, Submission] = {}
        self._outgoing: defaultdict[bytes, list[Generate | Cancel]] = defaultdict(list)
        """By inbox: what to send at the end of the turn."""

    def open(self, leaders: Iterable[Leader]) -> None:
        """Send sequences to these leaders from now on."""
        self._loads = {leader.connection: _Load(leader) for leader in leaders}

    def close(self, sentence: str) -> None:
        """Refuse all pending sequences, and those that are submitted from now on, until `open`."""
        self._unavailable = sentence
        self._loads.clear()
        self._metrics.set("kv_cache_usage_perc", 0)
        pending, self._pending = self._pending, {}
        for submission in pending.values():
            self._refuse(submission)

    def submit(self, submission: Submission) -> None:
        """Send a sequence to the leader with the lowest load, or refuse it."""
        if not self._loads:
            self._refuse(submission)
            return
        load = min(self._loads.values(), key=lambda load: len(load.sequences) / load.leader.ready.slots)
        load.sequences.add(submission.id)
        self._pending[submission.id] = submission
        self._metrics.set("num_requests_running", len(self._pending))
        self._queue(load, Generate(submission.id, submission.sequence))

    def cancel(self, sequence_id: int) -> None:
        """End a sequence; its callbacks are not called any more."""
        if self._pending.pop(sequence_id, None) is None:
            return
        self._metrics.withdrawn(1)
        self._metrics.set("num_requests_running", len(self._pending))
        for load in self._loads.values():
            if sequence_id in load.sequences:
                load.sequences.discard(sequence_id)
                self._queue(load, Cancel(sequence_id))

    def pass_text(self, deltas: Deltas) -> None:
        """Pass on new text of sequences that stream."""
        for sequence_id, text in deltas.sequences:
            if (submission := self._pending.get(sequence_id)) is not None and submission.on_text is not None:
                submission.on_text(text)

    def settle(self, connection: bytes, outcome: Outcome) -> None:
        """Pass on the outcome of a sequence, which the leader with this connection has sent."""
        if load := self._loads.get(connection):
            load.sequences.discard(outcome.id)
        if submission := self._pending.pop(outcome.id, None):
            self._pass_outcome(submission, outcome)

    def note_usage(self, connection: bytes, kv_cache: float) -> None:
        """Take note of how full the KV cache of a leader's group is, from 0 to 1."""
        if load := self._loads.get(connection):
            load.kv_cache_usage = kv_cache
            self._metrics.set("kv_cache_usage_perc", max(each.kv_cache_usage for each in self._loads.values()))

    def _queue(self, load: _Load, message: Generate | Cancel) -> None:
        if not self._outgoing:
            self._loop.at_turn_end(self._send_all)
        self._outgoing[load.leader.inbox].append(message)

    def _send_all(self) -> None:
        outgoing, self._outgoing = self._outgoing, defaultdict(list)
        for inbox, messages in outgoing.items():
            self._send(inbox, messages)

    def _refuse(self, submission: Submission) -> None:
        self._pass_outcome(submission, Refused(submission.id, "UNAVAILABLE", self._unavailable))

    def _pass_outcome(self, submission: Submission, outcome: Outcome) -> None:
        self._metrics.set("num_requests_running", len(self._pending))
        if isinstance(outcome, Done):
            self._metrics.finished(outcome, time.monotonic() - submission.arrived)
        else:
            self._metrics.refused(outcome.kind)
        submission.on_outcome(outcome)
