"""The streaming twin's Python-backend model: decoupled, one row a request, many responses."""

import json
import math
import sys
import threading
import time
from dataclasses import replace
from typing import Any

import triton_python_backend_utils as pb_utils

from ..protocol import Refused, Row
from ..settings import SettingsError, StreamSettings
from .errors import BadRequestError
from .pictures import PictureLimits
from .ranks import Outcome
from .requests import read_rows
from .responses import output_tensors, text_array
from .sharing import Guest, HostGoneError
from .triton import input_arrays, send_error
from .watch import Watcher


class TritonPythonModel:
    """Hands rows to another model's ranks and sends their text as it grows."""

    def initialize(self, args: dict[str, str]) -> None:
        """Wait until the other model is there, so that a model that is READY answers."""
        config = json.loads(args["model_config"])
        self._name = config["name"]
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        try:
            settings = StreamSettings.from_parameters(parameters)
        except SettingsError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        self._guest = Guest(settings.stream_of, int(args["model_version"]), self._log)
        try:
            self._max_prompt_bytes = self._guest.start(settings.start_timeout)
        except HostGoneError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        self._pictures = PictureLimits.of(settings)
        self._watcher = Watcher()

    def execute(self, requests: list[Any]) -> None:
        """Submit each request's row; text goes through its response sender."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                rows = read_rows(input_arrays(request), self._max_prompt_bytes, self._pictures)
                if len(rows) != 1:
                    raise BadRequestError(f"prompts has {len(rows)} rows; a streaming request has one.")
            except BadRequestError as error:
                send_error(sender, "INVALID_ARG", str(error))
                continue
            _StreamingRequest(
                replace(rows[0], stream=True),
                sender,
                request.requested_output_names(),
                timeout=request.timeout() / 1e6 or math.inf,
                guest=self._guest,
                watcher=self._watcher,
            ).start()

    def finalize(self) -> None:
        """End the thread that talks to the other model."""
        self._watcher.close()
        self._guest.stop()

    def _log(self, line: str) -> None:
        print(f"[trgen {self._name}] {line}", file=sys.stderr, flush=True)


class _StreamingRequest:
    """A row whose text is sent as it grows. Callbacks come on the guest's thread, ends on the watcher's too."""

    def __init__(self, row: Row, sender: Any, wanted: list[str], *, timeout: float, guest: Guest, watcher: Watcher):
        self.deadline = time.monotonic() + timeout
        self._row = row
        self._sender = sender
        self._wanted = frozenset(wanted)
        self._guest = guest
        self._watcher = watcher
        self._lock = threading.Lock()
        self._ended = False

    def start(self) -> None:
        self._id = self._guest.submit(self._row, self._settle, self._tell)
        with self._lock:
            if not self._ended:
                self._watcher.add(self)

    def is_cancelled(self) -> bool:
        with self._lock:  # not while or after the last response is sent: tritonserver 2.51 would crash
            return not self._ended and bool(self._sender.is_cancelled())

    def cancel(self) -> None:
        self._break_off("CANCELLED", "The client has cancelled the request.")

    def expire(self) -> None:
        self._break_off("UNAVAILABLE", "The request took longer than its timeout.")

    def _tell(self, text: str) -> None:
        with self._lock:
            if not self._ended and "sentences" in self._wanted:
                tensor = pb_utils.Tensor("sentences", text_array(text))
                self._sender.send(pb_utils.InferenceResponse([tensor]))

    def _settle(self, outcome: Outcome) -> None:
        if not self._end():
            return
        if isinstance(outcome, Refused):
            send_error(self._sender, outcome.kind, outcome.message)
            return
        tensors = [
            pb_utils.Tensor(name, text_array(outcome.rest) if name == "sentences" else array)
            for name, array in output_tensors([self._row], [outcome.answer], self._wanted)
        ]
        self._sender.send(pb_utils.InferenceResponse(tensors), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _break_off(self, kind: str, sentence: str) -> None:
        if self._end():
            self._guest.cancel(self._id)
            send_error(self._sender, kind, sentence)

    def _end(self) -> bool:
        """Return whether the request had not ended before."""
        with self._lock:
            ended, self._ended = self._ended, True
        self._watcher.remove(self)
        return not ended
