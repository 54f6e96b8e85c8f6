"""A request between its arrival and its answer, on the model that answers at once."""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import triton_python_backend_utils as pb_utils

from ..protocol import Answer, Refused, Row
from .admission import Admission
from .ranks import Outcome, Ranks
from .responses import output_tensors
from .triton import send_error
from .watch import Watcher


class PendingRequest:
    """Rows that wait for a place or are with the ranks. Outcomes come on the ranks' thread, ends on others too.

    Args:
        rows: what to continue.
        sender: Triton's response sender.
        wanted: names of the outputs that the client asked for.
        patience: seconds that the request may wait for a place; infinity for ever.
        timeout: seconds until it ends in any case; infinity for never.
        admission: gives the places and takes them back.
        ranks: take the rows.
        watcher: looks whether the client is still there.
        log: takes lines about the request, if anything does.
    """

    def __init__(
        self,
        rows: list[Row],
        sender: Any,
        wanted: list[str],
        *,
        patience: float,
        timeout: float,
        admission: Admission,
        ranks: Ranks,
        watcher: Watcher,
        log: Callable[[str], None] | None,
    ):
        self.places = len(rows)
        self._started = time.monotonic()
        self.patient_until = self._started + patience
        self.deadline = self._started + timeout
        self._rows = rows
        self._sender = sender
        self._wanted = frozenset(wanted)
        self._admission = admission
        self._ranks = ranks
        self._watcher = watcher
        self._log = log
        self._ids: list[int] = []
        self._answers: dict[int, Answer] = {}
        self._lock = threading.Lock()
        self._ended = False
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
        if self._end():
            send_error(self._sender, "UNAVAILABLE", sentence)

    def is_cancelled(self) -> bool:
        """Whether the client has gone or has cancelled the request."""
        with self._lock:  # not while or after the last response is sent: tritonserver 2.51 would crash
            return not self._ended and bool(self._sender.is_cancelled())

    def cancel(self) -> None:
        """End the request: nobody waits for it."""
        self._break_off("CANCELLED", "The client has cancelled the request.")

    def expire(self) -> None:
        """End the request: its own timeout is over."""
        self._break_off("UNAVAILABLE", "The request took longer than its timeout.")

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
            self._answer()

    def _end(self) -> bool:
        """Return whether the request had not ended before."""
        with self._lock:
            ended, self._ended = self._ended, True
        self._watcher.remove(self)
        return not ended

    def _break_off(self, kind: str, sentence: str) -> None:
        if not self._end():
            return
        if self._log is not None:
            self._log(f"request ended after {time.monotonic() - self._started:.3f} s: {sentence}")
        if not self._admission.withdraw(self):
            for row_id in self._ids:
                self._ranks.cancel(row_id)
            if self._ids:
                self._admission.leave(len(self._rows) - len(self._answers))
        send_error(self._sender, kind, sentence)

    def _answer(self) -> None:
        answers = [self._answers[index] for index in range(len(self._rows))]
        if self._log is not None:
            tokens = sum(answer.completion_tokens for answer in answers)
            self._log(f"request done after {time.monotonic() - self._started:.3f} s, {tokens} new tokens")
        tensors = [pb_utils.Tensor(name, array) for name, array in output_tensors(self._rows, answers, self._wanted)]
        self._sender.send(pb_utils.InferenceResponse(tensors), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
