"""A request between its arrival and its answer, of the model that sends one response a request."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from ..common.protocol import Answer, Refused, SequenceRequest
from .admission import Admission
from .open_request import OpenRequest
from .ranks import Ranks
from .request_watcher import RequestWatcher
from .responses import output_tensors
from .router import Outcome
from .send_queue import SendQueue


class PendingRequest(OpenRequest):
    """A request whose sequences wait for slots or run: an `admission.Request`.

    Outcomes arrive on the ranks' thread.

    Args:
        sequences: the sequences to generate.
        sender: Triton's response sender.
        wanted: names of the outputs that the client asked for.
        priority: the priority level; 1 is the highest.
        queue_timeout: seconds that the request may wait for slots; infinity for no limit.
        timeout: seconds after which the request fails; infinity for no limit.
        admission: the owner of the slots.
        ranks: run the sequences.
        watcher: checks whether the client is still connected.
        send_queue: sends the answer.
        log: takes lines about the request; None for no log.
    """

    def __init__(
        self,
        sequences: list[SequenceRequest],
        sender: Any,
        wanted: list[str],
        *,
        priority: int,
        queue_timeout: float,
        timeout: float,
        admission: Admission,
        ranks: Ranks,
        watcher: RequestWatcher,
        send_queue: SendQueue,
        log: Callable[[str], None] | None,
    ):
        super().__init__(sender, timeout, watcher, send_queue)
        self.slots = len(sequences)
        self.priority = priority
        self._started = time.monotonic()
        self.queue_deadline = self._started + queue_timeout
        self._sequences = sequences
        self._wanted = frozenset(wanted)
        self._admission = admission
        self._ranks = ranks
        self._log = log
        self._ids: list[int] = []
        self._answers: dict[int, Answer] = {}
        watcher.add(self)

    def start(self) -> None:
        """Submit the sequences to the ranks."""
        if self._log is not None:
            self._log(
                f"request with {len(self._sequences)} sequences, outputs {sorted(self._wanted)}: {self._sequences}"
            )
        with self._lock:
            if not self._ended:
                for index, sequence in enumerate(self._sequences):
                    self._ids.append(self._ranks.submit(sequence, self._started, partial(self._settle, index)))
                return
        self._admission.leave(self.slots)

    def reject(self, sentence: str) -> None:
        """Refuse the request, for which there was no slot."""
        self._abort("UNAVAILABLE", sentence)

    def _settle(self, index: int, outcome: Outcome) -> None:
        if isinstance(outcome, Refused):
            # The whole request fails with its first refused sequence, and the others are cancelled.
            prefix = f"Sequence {index}: " if len(self._sequences) > 1 and outcome.kind == "INVALID_ARG" else ""
            self._abort(outcome.kind, prefix + outcome.message)
            return
        with self._lock:
            if self._ended:
                return
            self._answers[index] = outcome.answer
            complete = len(self._answers) == len(self._sequences)
        self._admission.leave(1)
        if complete and self._end():
            self._send_queue.put(self._answer)

    def _release(self, sentence: str) -> None:
        if self._log is not None:
            self._log(f"request ended after {time.monotonic() - self._started:.3f} s: {sentence}")
        if not self._admission.withdraw(self):
            for sequence_id in self._ids:
                self._ranks.cancel(sequence_id)
            if self._ids:
                self._admission.leave(len(self._sequences) - len(self._answers))

    def _answer(self) -> None:
        answers = [self._answers[index] for index in range(len(self._sequences))]
        if self._log is not None:
            tokens = sum(answer.completion_tokens for answer in answers)
            self._log(f"request done after {time.monotonic() - self._started:.3f} s, {tokens} new tokens")
        self._send_last(output_tensors(self._sequences, answers, self._wanted))
