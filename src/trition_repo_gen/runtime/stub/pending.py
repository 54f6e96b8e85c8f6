"""A request between its arrival and its answer, on the model that answers at once."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from ..common.protocol import Answer, Refused, Row
from .admission import Admission
from .open_request import OpenRequest
from .ranks import Outcome, Ranks
from .request_watcher import Watcher
from .responses import output_tensors
from .send_queue import Lane


class PendingRequest(OpenRequest):
    """Rows that wait for a place or are with the ranks: an `admission.Request`. Outcomes come on the ranks' thread.

    Args:
        rows: what to continue.
        sender: Triton's response sender.
        wanted: names of the outputs that the client asked for.
        priority: how urgent it is, 1 goes first.
        patience: seconds that the request may wait for a place; infinity for ever.
        timeout: seconds until it ends in any case; infinity for never.
        admission: gives the places and takes them back.
        ranks: take the rows.
        watcher: looks whether the client is still there.
        lane: sends the answer.
        log: takes lines about the request, if anything does.
    """

    def __init__(
        self,
        rows: list[Row],
        sender: Any,
        wanted: list[str],
        *,
        priority: int,
        patience: float,
        timeout: float,
        admission: Admission,
        ranks: Ranks,
        watcher: Watcher,
        lane: Lane,
        log: Callable[[str], None] | None,
    ):
        super().__init__(sender, timeout, watcher, lane)
        self.places = len(rows)
        self.priority = priority
        self._started = time.monotonic()
        self.patient_until = self._started + patience
        self._rows = rows
        self._wanted = frozenset(wanted)
        self._admission = admission
        self._ranks = ranks
        self._log = log
        self._ids: list[int] = []
        self._answers: dict[int, Answer] = {}
        watcher.add(self)

    def start(self) -> None:
        """Hand the rows to the ranks."""
        if self._log is not None:
            self._log(f"request with {len(self._rows)} rows, outputs {sorted(self._wanted)}: {self._rows}")
        with self._lock:
            if not self._ended:
                for index, row in enumerate(self._rows):
                    self._ids.append(self._ranks.submit(row, self._started, partial(self._settle, index)))
                return
        self._admission.leave(self.places)

    def turn_away(self, sentence: str) -> None:
        """Answer that there was no place for it."""
        self._break_off("UNAVAILABLE", sentence)

    def _settle(self, index: int, outcome: Outcome) -> None:
        if isinstance(outcome, Refused):
            # The whole request fails with its first refused row; nobody waits for the others any more.
            prefix = f"Row {index}: " if len(self._rows) > 1 and outcome.kind == "INVALID_ARG" else ""
            self._break_off(outcome.kind, prefix + outcome.message)
            return
        with self._lock:
            if self._ended:
                return
            self._answers[index] = outcome.answer
            complete = len(self._answers) == len(self._rows)
        self._admission.leave(1)
        if complete and self._end():
            self._lane.put(self._answer)

    def _release(self, sentence: str) -> None:
        if self._log is not None:
            self._log(f"request ended after {time.monotonic() - self._started:.3f} s: {sentence}")
        if not self._admission.withdraw(self):
            for row_id in self._ids:
                self._ranks.cancel(row_id)
            if self._ids:
                self._admission.leave(len(self._rows) - len(self._answers))

    def _answer(self) -> None:
        answers = [self._answers[index] for index in range(len(self._rows))]
        if self._log is not None:
            tokens = sum(answer.completion_tokens for answer in answers)
            self._log(f"request done after {time.monotonic() - self._started:.3f} s, {tokens} new tokens")
        self._send_last(output_tensors(self._rows, answers, self._wanted))
