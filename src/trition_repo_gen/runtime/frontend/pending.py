"""A request between its arrival and its answer."""

import time
from collections.abc import Callable
from typing import Any

import triton_python_backend_utils as pb_utils

from ..protocol import Answer, Refused, Row
from .admission import Admission
from .ranks import Outcome, Ranks
from .responses import output_tensors


class PendingRequest:
    """Rows that wait for a place or are with the ranks. Outcomes come on the ranks' thread.

    Args:
        rows: what to continue.
        sender: Triton's response sender.
        wanted: names of the outputs that the client asked for.
        patience: seconds that the request may wait for a place; infinity for ever.
        admission: gives the place and takes it back.
        ranks: take the rows.
        log: takes lines about the request, if anything does.
    """

    def __init__(
        self,
        rows: list[Row],
        sender: Any,
        wanted: list[str],
        *,
        patience: float,
        admission: Admission,
        ranks: Ranks,
        log: Callable[[str], None] | None,
    ):
        self.places = len(rows)
        self._started = time.monotonic()
        self.deadline = self._started + patience
        self._rows = rows
        self._sender = sender
        self._wanted = frozenset(wanted)
        self._admission = admission
        self._ranks = ranks
        self._log = log
        self._ids: list[int] = []
        self._answers: dict[int, Answer] = {}
        self._refused = False

    def start(self) -> None:
        """Hand the rows to the ranks."""
        if self._log is not None:
            self._log(f"request with {len(self._rows)} rows, outputs {sorted(self._wanted)}: {self._rows}")
        for index, row in enumerate(self._rows):
            if self._refused:
                break
            self._ids.append(self._ranks.submit(row, lambda outcome, index=index: self._settle(index, outcome)))  # type: ignore[misc]

    def turn_away(self, sentence: str) -> None:
        """Answer that there was no place for it."""
        send_error(self._sender, "UNAVAILABLE", sentence)

    def _settle(self, index: int, outcome: Outcome) -> None:
        if self._refused:
            return
        if isinstance(outcome, Refused):
            self._refuse(index, outcome)
            return
        self._admission.leave(1)
        self._answers[index] = outcome
        if len(self._answers) == len(self._rows):
            self._answer()

    def _refuse(self, index: int, refusal: Refused) -> None:
        """Fail the whole request with its first refused row; nobody waits for the others any more."""
        self._refused = True
        self._admission.leave(len(self._rows) - len(self._answers))
        for row_id in list(self._ids):
            self._ranks.cancel(row_id)
        prefix = f"Row {index}: " if len(self._rows) > 1 and refusal.kind == "INVALID_ARG" else ""
        send_error(self._sender, refusal.kind, prefix + refusal.message)

    def _answer(self) -> None:
        answers = [self._answers[index] for index in range(len(self._rows))]
        if self._log is not None:
            tokens = sum(answer.completion_tokens for answer in answers)
            self._log(f"request done after {time.monotonic() - self._started:.3f} s, {tokens} new tokens")
        tensors = [pb_utils.Tensor(name, array) for name, array in output_tensors(self._rows, answers, self._wanted)]
        self._sender.send(pb_utils.InferenceResponse(tensors), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def send_error(sender: Any, kind: str, sentence: str) -> None:
    """Fail a request; `kind` is the name of a code of Triton's errors."""
    error = pb_utils.TritonError(sentence, getattr(pb_utils.TritonError, kind))
    sender.send(pb_utils.InferenceResponse(error=error), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
