"""Python-backend models that stream: decoupled, one sequence a request, using the ranks of another model."""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from ..common import log_lines
from ..common.protocol import Done, Refused, SequenceRequest
from ..common.settings import SettingsError, StreamSettings
from ..common.wire import BadRequestError
from .errors import why_rejected
from .images import ImageLimits
from .open_request import OpenRequest
from .priority import asked_priority
from .remote_client import RemoteClient, StubServerGoneError
from .request_watcher import RequestWatcher
from .requests import INPUTS, read_sequences
from .responses import output_tensors, text_array
from .router import Outcome
from .send_queue import SendQueue, SendQueues
from .triton import input_arrays, send_error

Outputs = Iterable[tuple[str, NDArray[Any]]]
"""Names and arrays."""


class DecoupledModel(ABC):
    """Submits sequences to another model's ranks and sends their text and outcomes. Subclasses define the tensors."""

    inputs: frozenset[str]
    """Names of the input tensors."""
    text_output: str
    """Name of the output tensor with new text."""

    @abstractmethod
    def read(self, tensors: Mapping[str, NDArray[Any]]) -> list[SequenceRequest]:
        """Return a request's sequences.

        Raises:
            BadRequestError: a value is invalid.
        """

    def explain(self, sentence: str) -> str:
        """Return a refusal in the names of this model's tensors."""
        return sentence

    @abstractmethod
    def last_response(self, sequence: SequenceRequest, done: Done, wanted: frozenset[str]) -> Outputs:
        """Return the wanted outputs of the final response of a sequence."""

    def initialize(self, args: dict[str, str]) -> None:
        """Wait until the other model takes sequences: Triton then reports this model as ready."""
        config = json.loads(args["model_config"])
        self._name = config["name"]
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        try:
            settings = StreamSettings.from_parameters(parameters)
        except SettingsError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        self._client = RemoteClient(settings.stream_of, int(args["model_version"]), self._log)
        try:
            self.prompt_limit = self._client.start(settings.start_timeout)
        except StubServerGoneError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        self.images = ImageLimits.of(settings)
        self._watcher = RequestWatcher()
        self._send_queues = SendQueues()

    def execute(self, requests: list[Any]) -> None:
        """Submit the sequence of each request. Text and outcome go through the request's response sender."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                sequences = self.read(input_arrays(request, self.inputs))
                if len(sequences) != 1:
                    raise BadRequestError(f"prompts has {len(sequences)} sequences; a streaming request has one.")
                priority = asked_priority(request)
            except Exception as error:
                kind, sentence = why_rejected(error)
                self._client.count_rejected(kind)
                send_error(sender, kind, self.explain(sentence))
                continue
            _StreamingRequest(
                self,
                sequences[0],
                priority,
                sender,
                request.requested_output_names(),
                timeout=request.timeout() / 1e6 or math.inf,
                client=self._client,
                watcher=self._watcher,
                send_queue=self._send_queues.send_queue(),
            ).start()

    def finalize(self) -> None:
        """End the threads."""
        self._watcher.close()
        self._client.stop()
        self._send_queues.close()

    def _log(self, line: str) -> None:
        log_lines.write(self._name, line)


class TritonPythonModel(DecoupledModel):
    """The streaming model: the tensors of the model whose ranks it uses, and a response for each piece of text."""

    inputs = INPUTS
    text_output = "sentences"

    def read(self, tensors: Mapping[str, NDArray[Any]]) -> list[SequenceRequest]:
        """Return the request's sequences."""
        return [replace(sequence, stream=True) for sequence in read_sequences(tensors, self.prompt_limit, self.images)]

    def last_response(self, sequence: SequenceRequest, done: Done, wanted: frozenset[str]) -> Outputs:
        """Return the outputs of the model, with the text that was not sent before."""
        return (
            (name, text_array(done.rest) if name == "sentences" else array)
            for name, array in output_tensors([sequence], [done.answer], wanted)
        )


class _StreamingRequest(OpenRequest):
    """A request whose text is sent while it is generated.

    Callbacks run on the remote client's thread; the watcher's thread may end the request. Responses stay in order.
    """

    def __init__(
        self,
        model: DecoupledModel,
        sequence: SequenceRequest,
        priority: Any,
        sender: Any,
        wanted: list[str],
        *,
        timeout: float,
        client: RemoteClient,
        watcher: RequestWatcher,
        send_queue: SendQueue,
    ):
        super().__init__(sender, timeout, watcher, send_queue)
        self._model = model
        self._sequence = sequence
        self._priority = priority
        self._wanted = frozenset(wanted)
        self._client = client
        self._unsent: list[str] = []
        """Text that waits for the send queue, which sends all of it in one response."""

    def start(self) -> None:
        self._id = self._client.submit(self._sequence, self._priority, self._settle, self._on_text)
        with self._lock:
            if not self._ended:
                self._watcher.add(self)

    def _on_text(self, text: str) -> None:
        with self._lock:
            if self._ended or self._model.text_output not in self._wanted:
                return
            if not self._unsent:
                self._send_queue.put(self._send_text)  # ahead of the final response: that one needs the lock
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
            self._fail(outcome.kind, self._model.explain(outcome.message))
        else:
            self._send_queue.put(
                lambda: self._send_last(self._model.last_response(self._sequence, outcome, self._wanted))
            )

    def _release(self, sentence: str) -> None:
        self._client.cancel(self._id)
