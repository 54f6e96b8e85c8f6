"""The streaming twin's Python-backend model: decoupled, one row a request, many responses."""

import json
import math
import sys
from dataclasses import replace
from typing import Any

import triton_python_backend_utils as pb_utils

from ..protocol import Refused, Row
from ..settings import SettingsError, StreamSettings
from .ending import OpenRequest
from .errors import BadRequestError
from .guest import Guest, HostGoneError
from .pictures import PictureLimits
from .ranks import Outcome
from .requests import read_rows
from .responses import output_tensors, text_array
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


class _StreamingRequest(OpenRequest):
    """A row whose text is sent as it grows. Callbacks come on the guest's thread, ends on the watcher's too."""

    def __init__(self, row: Row, sender: Any, wanted: list[str], *, timeout: float, guest: Guest, watcher: Watcher):
        super().__init__(sender, timeout, watcher)
        self._row = row
        self._wanted = frozenset(wanted)
        self._guest = guest

    def start(self) -> None:
        self._id = self._guest.submit(self._row, self._settle, self._tell)
        with self._lock:
            if not self._ended:
                self._watcher.add(self)

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
        self._send_last(
            (name, text_array(outcome.rest) if name == "sentences" else array)
            for name, array in output_tensors([self._row], [outcome.answer], self._wanted)
        )

    def _release(self, sentence: str) -> None:
        self._guest.cancel(self._id)
