"""The Python-backend model: Triton calls `initialize`, `execute` for each batch, and `finalize`."""

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from ..protocol import Answer, Refused, Row
from ..settings import Settings, SettingsError
from .ranks import Outcome, Ranks, RanksError
from .requests import INPUTS, BadRequestError, as_numpy, read_rows
from .responses import output_tensors


class TritonPythonModel:
    """Hands rows to the ranks and answers each request when its rows are done, in any order.

    `execute` returns before the answers exist; it blocks only while the ranks have no free slot, so that requests wait
    in Triton's queue, where the queue policy of config.pbtxt holds.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Start the ranks and wait until they take requests, so that a model that is READY answers."""
        config = json.loads(args["model_config"])
        self._name = config["name"]
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        script = Path(args["model_repository"], args["model_version"], "model.py")
        try:
            settings = Settings.from_parameters(parameters)
        except SettingsError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        self._ranks = Ranks(settings, script, self._log)
        try:
            limits = self._ranks.start()
        except RanksError as error:
            self._ranks.stop()
            raise pb_utils.TritonModelException(str(error)) from None
        self._max_prompt_bytes = limits.max_prompt_bytes
        self._slots = _Slots(limits.slots)
        self._log_request = self._log if settings.debug_mode else None

    def execute(self, requests: list[Any]) -> None:
        """Submit the requests' rows; answers go through each request's response sender."""
        for request in requests:
            sender = request.get_response_sender()
            tensors = {}
            for name in INPUTS:
                if (tensor := pb_utils.get_input_tensor_by_name(request, name)) is not None:
                    tensors[name] = as_numpy(tensor)
            try:
                rows = read_rows(tensors, self._max_prompt_bytes)
            except BadRequestError as error:
                _send_error(sender, "INVALID_ARG", str(error))
                continue
            self._slots.acquire(len(rows))
            wanted = request.requested_output_names()
            _PendingRequest(rows, sender, wanted, self._slots, self._ranks, self._log_request).submit()

    def finalize(self) -> None:
        """End the ranks."""
        self._ranks.stop()

    def _log(self, line: str) -> None:
        print(f"[trgen {self._name}] {line}", file=sys.stderr, flush=True)


class _Slots:
    """Rows that the ranks may hold. A request with more rows than there are slots runs alone."""

    def __init__(self, size: int):
        self._size = size
        self._taken = 0
        self._changed = threading.Condition()

    def acquire(self, rows: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._taken == 0 or self._taken + rows <= self._size)
            self._taken += rows

    def release(self, rows: int) -> None:
        with self._changed:
            self._taken -= rows
            self._changed.notify_all()


class _PendingRequest:
    """A request whose rows are with the ranks. `submit` runs on Triton's thread, the rest on the ranks'."""

    def __init__(
        self,
        rows: list[Row],
        sender: Any,
        wanted: list[str],
        slots: _Slots,
        ranks: Ranks,
        log: Callable[[str], None] | None,
    ):
        self._rows = rows
        self._sender = sender
        self._wanted = frozenset(wanted)
        self._slots = slots
        self._ranks = ranks
        self._log = log
        self._ids: list[int] = []
        self._answers: dict[int, Answer] = {}
        self._refused = False
        self._started = time.monotonic()

    def submit(self) -> None:
        if self._log is not None:
            self._log(f"request with {len(self._rows)} rows, outputs {sorted(self._wanted)}: {self._rows}")
        for index, row in enumerate(self._rows):
            if self._refused:
                break
            self._ids.append(self._ranks.submit(row, lambda outcome, index=index: self._settle(index, outcome)))  # type: ignore[misc]

    def _settle(self, index: int, outcome: Outcome) -> None:
        if self._refused:
            return
        if isinstance(outcome, Refused):
            self._refuse(index, outcome)
            return
        self._slots.release(1)
        self._answers[index] = outcome
        if len(self._answers) == len(self._rows):
            self._answer()

    def _refuse(self, index: int, refusal: Refused) -> None:
        """Fail the whole request with its first refused row; nobody waits for the others any more."""
        self._refused = True
        self._slots.release(len(self._rows) - len(self._answers))
        for row_id in list(self._ids):
            self._ranks.cancel(row_id)
        prefix = f"Row {index}: " if len(self._rows) > 1 and refusal.kind == "INVALID_ARG" else ""
        _send_error(self._sender, refusal.kind, prefix + refusal.message)

    def _answer(self) -> None:
        answers = [self._answers[index] for index in range(len(self._rows))]
        if self._log is not None:
            tokens = sum(answer.completion_tokens for answer in answers)
            self._log(f"request done after {time.monotonic() - self._started:.3f} s, {tokens} new tokens")
        tensors = [pb_utils.Tensor(name, array) for name, array in output_tensors(self._rows, answers, self._wanted)]
        self._sender.send(pb_utils.InferenceResponse(tensors), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _send_error(sender: Any, kind: str, sentence: str) -> None:
    error = pb_utils.TritonError(sentence, getattr(pb_utils.TritonError, kind))
    sender.send(pb_utils.InferenceResponse(error=error), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
