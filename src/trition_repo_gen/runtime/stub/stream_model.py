"""Python-backend models without ranks: decoupled, one row a request, many responses; the streaming twin is one."""

import json
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from ..common.protocol import Done, Refused, Row
from ..common.settings import SettingsError, StreamSettings
from .errors import BadRequestError, why_unreadable
from .images import PictureLimits
from .open_request import OpenRequest
from .priority import asked_priority
from .ranks import Outcome
from .remote_client import Guest, HostGoneError
from .request_watcher import Watcher
from .requests import INPUTS, read_rows
from .responses import output_tensors, text_array
from .send_queue import Lane, Outbox
from .triton import input_arrays, send_error

Outputs = Iterable[tuple[str, NDArray[Any]]]
"""Names and arrays."""


class GuestModel(ABC):
    """Hands rows to another model's ranks and sends what comes of them, in the tensors of who inherits."""

    inputs: tuple[str, ...]
    """Names of the tensors that a request may have."""
    text_output: str
    """Name of the tensor with new text."""

    @abstractmethod
    def read(self, tensors: Mapping[str, NDArray[Any]]) -> list[Row]:
        """Return a request's rows.

        Raises:
            BadRequestError: a value makes no sense.
        """

    @abstractmethod
    def last_response(self, row: Row, done: Done, wanted: frozenset[str]) -> Outputs:
        """Return what of the wanted outputs the last response of a row has."""

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
            self.max_prompt_bytes = self._guest.start(settings.start_timeout)
        except HostGoneError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        self.pictures = PictureLimits.of(settings)
        self._watcher = Watcher()
        self._outbox = Outbox()

    def execute(self, requests: list[Any]) -> None:
        """Submit each request's row; text goes through its response sender."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                rows = self.read(input_arrays(request, self.inputs))
                if len(rows) != 1:
                    raise BadRequestError(f"prompts has {len(rows)} rows; a streaming request has one.")
                priority = asked_priority(request)
            except Exception as error:
                kind, sentence = why_unreadable(error)
                self._guest.count_unreadable(kind)
                send_error(sender, kind, sentence)
                continue
            _StreamingRequest(
                self,
                rows[0],
                priority,
                sender,
                request.requested_output_names(),
                timeout=request.timeout() / 1e6 or math.inf,
                guest=self._guest,
                watcher=self._watcher,
                lane=self._outbox.lane(),
            ).start()

    def finalize(self) -> None:
        """End the threads."""
        self._watcher.close()
        self._guest.stop()
        self._outbox.close()

    def _log(self, line: str) -> None:
        print(f"[trgen {self._name}] {line}", file=sys.stderr, flush=True)


class TritonPythonModel(GuestModel):
    """The streaming twin: the tensors of its model, the text as it grows."""

    inputs = INPUTS
    text_output = "sentences"

    def read(self, tensors: Mapping[str, NDArray[Any]]) -> list[Row]:
        """Return the request's rows."""
        return [replace(row, stream=True) for row in read_rows(tensors, self.max_prompt_bytes, self.pictures)]

    def last_response(self, row: Row, done: Done, wanted: frozenset[str]) -> Outputs:
        """Return the outputs of the model, with the text that did not come before."""
        return (
            (name, text_array(done.rest) if name == "sentences" else array)
            for name, array in output_tensors([row], [done.answer], wanted)
        )


class _StreamingRequest(OpenRequest):
    """A row whose text is sent as it grows. Callbacks come on the guest's thread, ends on the watcher's too; responses
    are sent in the order in which they are put on the lane.
    """

    def __init__(
        self,
        model: GuestModel,
        row: Row,
        priority: Any,
        sender: Any,
        wanted: list[str],
        *,
        timeout: float,
        guest: Guest,
        watcher: Watcher,
        lane: Lane,
    ):
        super().__init__(sender, timeout, watcher, lane)
        self._model = model
        self._row = row
        self._priority = priority
        self._wanted = frozenset(wanted)
        self._guest = guest
        self._unsent: list[str] = []
        """Text that waits for the lane: all of it goes in one response."""

    def start(self) -> None:
        self._id = self._guest.submit(self._row, self._priority, self._settle, self._tell)
        with self._lock:
            if not self._ended:
                self._watcher.add(self)

    def _tell(self, text: str) -> None:
        with self._lock:
            if self._ended or self._model.text_output not in self._wanted:
                return
            if not self._unsent:
                self._lane.put(self._send_text)  # before the end is, which needs the lock
            self._unsent.append(text)

    def _send_text(self) -> None:
        with self._lock:
            text = "".join(self._unsent)
            self._unsent.clear()
        tensor = pb_utils.Tensor(self._model.text_output, text_array(text))
        self._sender.send(pb_utils.InferenceResponse([tensor]))

    def _settle(self, outcome: Outcome) -> None:
        if not self._end():
            return
        if isinstance(outcome, Refused):
            self._fail(outcome.kind, outcome.message)
        else:
            self._lane.put(lambda: self._send_last(self._model.last_response(self._row, outcome, self._wanted)))

    def _release(self, sentence: str) -> None:
        self._guest.cancel(self._id)
