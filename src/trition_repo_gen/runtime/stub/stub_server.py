"""A model's side of the socket between two stubs: lets the model's streaming model use its ranks."""

import contextlib
import os
import time
from collections import defaultdict
from functools import partial
from typing import Any

import zmq

from ..common.protocol import Cancel, Deltas, Done, PromptLimit, Refused, decode, encode
from ..common.sockets import new_socket
from ..common.wire import BadRequestError
from .admission import Admission
from .open_request import EndsOnce
from .priority import Priorities
from .ranks import Ranks
from .remote_protocol import Accepted, Connect, Rejected, Submit, disconnected_marker, remove_leftovers, socket_path
from .router import Outcome


class StubServer:
    """Serves remote clients on the ranks' event loop, from that loop's start.

    Args:
        model: the model's name.
        version: its version.
        ranks: take the sequences; not started yet.
        priorities: the priority levels that a sequence may have.
        queue_timeout: seconds that a sequence may wait for a slot; infinity for ever.
    """

    def __init__(self, model: str, version: int, ranks: Ranks, priorities: Priorities, queue_timeout: float):
        self._path = socket_path(os.getppid(), model, version)
        self._ranks = ranks
        self._loop = ranks.loop
        self._priorities = priorities
        self._queue_timeout = queue_timeout
        self._admission: Admission | None = None
        self._prompt_limit: PromptLimit | None = None
        self._sequences: dict[tuple[bytes, int], RemoteSequence] = {}
        self._texts: defaultdict[bytes, list[tuple[int, str]]] = defaultdict(list)
        """By remote client: the text to send at the end of the turn."""
        self._waiting_clients: set[bytes] = set()
        """Remote clients that connected before sequences were taken."""
        disconnected_marker(self._path).unlink(missing_ok=True)
        remove_leftovers(self._path)
        self._loop.run_soon(self._open)

    def open(self, admission: Admission, prompt_limit: PromptLimit) -> None:
        """Take sequences from now on."""
        self._loop.run_soon(partial(self._take_sequences, admission, prompt_limit))

    def close(self) -> None:
        """Remove the socket's path; the socket itself lives until this process ends."""
        self._path.unlink(missing_ok=True)

    def mark_failed(self) -> None:
        """Leave a marker for remote clients that have not connected: the model cannot load, and this process ends.

        To be called when the ranks are stopped, after which no socket is opened.
        """
        self._path.unlink(missing_ok=True)
        disconnected_marker(self._path).touch()

    def settle(self, identity: bytes, message: Done | Refused) -> None:
        """Send a remote client the outcome of its sequence. May be called on any thread."""
        self._loop.run_soon(partial(self._settle, identity, message))

    # The loop's thread.

    def send_text(self, identity: bytes, sequence_id: int, text: str) -> None:
        """Send new text to a remote client, at the end of the turn, in one frame with that of its other sequences."""
        if not self._texts:
            self._loop.at_turn_end(self._send_texts)
        self._texts[identity].append((sequence_id, text))

    def _send_texts(self) -> None:
        texts, self._texts = self._texts, defaultdict(list)
        for identity, sequences in texts.items():
            self._send(identity, Deltas(sequences))

    def _settle(self, identity: bytes, message: Done | Refused) -> None:
        if self._sequences.pop((identity, message.id), None) is not None:
            self._send_texts()  # they come before the outcome
            self._send(identity, message)

    def _send(self, identity: bytes, message: Any) -> None:
        self._socket.send_multipart([identity, encode(message)])

    def _open(self) -> None:
        self._socket = new_socket(zmq.ROUTER)
        self._socket.bind(f"ipc://{self._path}")
        self._loop.watch(self._socket, self._receive)

    def _take_sequences(self, admission: Admission, prompt_limit: PromptLimit) -> None:
        self._admission, self._prompt_limit = admission, prompt_limit
        for identity in self._waiting_clients:
            self._accept(identity)

    def _receive(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                identity, frame = self._socket.recv_multipart(zmq.NOBLOCK)
                message = decode(frame)
                if isinstance(message, Connect):
                    self._accept(identity)
                elif isinstance(message, Rejected):
                    self._ranks.metrics.refused(message.kind)
                elif isinstance(message, Submit) and self._admission is not None:
                    self._enter(identity, message, self._admission)
                elif isinstance(message, Cancel) and (identity, message.id) in self._sequences:
                    self._sequences.pop((identity, message.id)).cancel()

    def _accept(self, identity: bytes) -> None:
        if self._admission is None:
            self._waiting_clients.add(identity)
        self._send(identity, Accepted(os.getpid(), self._prompt_limit))

    def _enter(self, identity: bytes, request: Submit, admission: Admission) -> None:
        try:
            priority = self._priorities.check(request.priority)
        except BadRequestError as error:
            self._send(identity, Refused(request.id, "INVALID_ARG", str(error)))
            return
        sequence = RemoteSequence(self, identity, request, admission, self._ranks, priority, self._queue_timeout)
        self._sequences[identity, request.id] = sequence
        admission.enter(sequence)


class RemoteSequence(EndsOnce):
    """A remote client's sequence: an `admission.Request`. It ends once: with its outcome, or when it is cancelled."""

    slots = 1

    def __init__(
        self,
        server: StubServer,
        identity: bytes,
        request: Submit,
        admission: Admission,
        ranks: Ranks,
        priority: int,
        queue_timeout: float,
    ):
        super().__init__()
        self.priority = priority
        self._arrived = time.monotonic()
        self.queue_deadline = self._arrived + queue_timeout
        self._server = server
        self._identity = identity
        self._request = request
        self._admission = admission
        self._ranks = ranks
        self._sequence_id: int | None = None

    def start(self) -> None:
        """Submit the sequence to the ranks."""
        with self._lock:
            if not self._ended:
                self._sequence_id = self._ranks.submit(
                    self._request.sequence, self._arrived, self.settle, self._on_text
                )
                return
        self._admission.leave(1)

    def reject(self, sentence: str) -> None:
        """Refuse the sequence, for which there was no slot."""
        if self._end():
            self._server.settle(self._identity, Refused(self._request.id, "UNAVAILABLE", sentence))

    def cancel(self) -> None:
        """End the sequence; its outcome is not sent."""
        if self._end() and not self._admission.withdraw(self) and self._sequence_id is not None:
            self._ranks.cancel(self._sequence_id)
            self._admission.leave(1)

    def settle(self, outcome: Outcome) -> None:
        """Free the slot and send the remote client the outcome."""
        if not self._end():
            return
        self._admission.leave(1)
        if isinstance(outcome, Done):
            self._server.settle(self._identity, Done(self._request.id, outcome.answer, outcome.rest))
        else:
            self._server.settle(self._identity, Refused(self._request.id, outcome.kind, outcome.message))

    def _on_text(self, text: str) -> None:
        self._server.send_text(self._identity, self._request.id, text)
