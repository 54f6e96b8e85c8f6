"""The side of a model that lets its streaming model use its ranks. All of it runs on the ranks' thread."""

import contextlib
import os
import time
from collections import defaultdict
from typing import Any

import zmq

from ..common.protocol import Cancel, Deltas, Done, Refused, decode, encode
from ..common.sockets import new_socket
from ..common.wire import BadRequestError
from .admission import Admission
from .open_request import EndsOnce
from .priority import Priorities
from .ranks import Outcome, Ranks
from .remote_protocol import Accepted, Connect, Rejected, Submit, disconnected_marker, remove_leftovers, socket_path


class StubServer:
    """Answers remote clients from the start of the ranks' thread.

    Args:
        model: the model's name.
        version: its version.
        ranks: take the sequences; not started yet.
        priorities: how urgent a sequence may be.
        patience: seconds that a sequence may wait for a slot; infinity for ever.
    """

    def __init__(self, model: str, version: int, ranks: Ranks, priorities: Priorities, queue_timeout: float):
        self._path = socket_path(os.getppid(), model, version)
        self._ranks = ranks
        self._priorities = priorities
        self._queue_timeout = queue_timeout
        self._admission: Admission | None = None
        self._max_prompt_bytes: int | None = None
        self._sequences: dict[tuple[bytes, int], RemoteSequence] = {}
        self._texts: defaultdict[bytes, list[tuple[int, str]]] = defaultdict(list)
        """What goes to each remote client next."""
        self._waiting_clients: set[bytes] = set()
        """Remote clients that knocked before sequences were taken."""
        disconnected_marker(self._path).unlink(missing_ok=True)
        remove_leftovers(self._path)
        ranks.run_soon(self._open)

    def open(self, admission: Admission, max_prompt_bytes: int) -> None:
        """Take sequences from now on."""

        def open_now() -> None:
            self._admission, self._max_prompt_bytes = admission, max_prompt_bytes
            for identity in self._waiting_clients:
                self._accept(identity)

        self._ranks.run_soon(open_now)

    def close(self) -> None:
        """Remove what was opened."""
        self._path.unlink(missing_ok=True)

    def mark_failed(self) -> None:
        """Leave a marker for remote clients that have not connected: the model cannot load, and this process ends."""
        self._path.unlink(missing_ok=True)
        disconnected_marker(self._path).touch()

    def _open(self) -> None:
        self._socket = new_socket(zmq.ROUTER)
        self._socket.bind(f"ipc://{self._path}")
        self._ranks.read_too(self._socket, self._read)

    def _read(self) -> None:
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
        self.send(identity, Accepted(os.getpid(), self._max_prompt_bytes))

    def _enter(self, identity: bytes, request: Submit, admission: Admission) -> None:
        try:
            priority = self._priorities.check(request.priority)
        except BadRequestError as error:
            self.send(identity, Refused(request.id, "INVALID_ARG", str(error)))
            return
        sequence = RemoteSequence(self, identity, request, admission, self._ranks, priority, self._queue_timeout)
        self._sequences[identity, request.id] = sequence
        admission.enter(sequence)

    def send(self, identity: bytes, message: Any) -> None:
        """Send to a remote client. To be called on the ranks' thread."""
        self._socket.send_multipart([identity, encode(message)])

    def send_text(self, identity: bytes, sequence_id: int, text: str) -> None:
        """Send new text to a remote client, with that of its other sequences. Call it on the ranks' thread."""
        if not self._texts:
            self._ranks.run_soon(self._send_texts)  # once all is read that has come from the ranks
        self._texts[identity].append((sequence_id, text))

    def _send_texts(self) -> None:
        texts, self._texts = self._texts, defaultdict(list)
        for identity, sequences in texts.items():
            self.send(identity, Deltas(sequences))

    def settle(self, identity: bytes, message: Done | Refused) -> None:
        """Tell a remote client the end of its sequence, from any thread."""

        def send_text() -> None:
            if self._sequences.pop((identity, message.id), None) is not None:
                self.send(identity, message)

        self._ranks.run_soon(send_text)


class RemoteSequence(EndsOnce):
    """A remote client's sequence: an `admission.Request`. It ends once, by its outcome or by its client."""

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
        """Hand the sequence to the ranks."""
        with self._lock:
            if not self._ended:
                self._sequence_id = self._ranks.submit(
                    self._request.sequence, self._arrived, self.settle, self._on_text
                )
                return
        self._admission.leave(1)

    def reject(self, sentence: str) -> None:
        """Tell the remote client that there was no slot for it."""
        if self._end():
            self._server.settle(self._identity, Refused(self._request.id, "UNAVAILABLE", sentence))

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        if self._end() and not self._admission.withdraw(self) and self._sequence_id is not None:
            self._ranks.cancel(self._sequence_id)
            self._admission.leave(1)

    def settle(self, outcome: Outcome) -> None:
        """Give the slot back and tell the remote client what became of the sequence."""
        if not self._end():
            return
        self._admission.leave(1)
        if isinstance(outcome, Done):
            self._server.settle(self._identity, Done(self._request.id, outcome.answer, outcome.rest))
        else:
            self._server.settle(self._identity, Refused(self._request.id, outcome.kind, outcome.message))

    def _on_text(self, text: str) -> None:
        self._server.send_text(self._identity, self._request.id, text)
