"""The side of a model that lets its streaming twin use its ranks. All of it runs on the ranks' thread."""

import contextlib
import os
import time
from collections import defaultdict
from typing import Any

import zmq

from ..common.protocol import Cancel, Deltas, Done, Refused, decode, encode
from ..common.sockets import new_socket
from .admission import Admission
from .errors import BadRequestError
from .open_request import EndsOnce
from .priority import Priorities
from .ranks import Outcome, Ranks
from .remote_protocol import Enter, Knock, Unreadable, Welcome, remove_leftovers, socket_path, tombstone


class Host:
    """Answers guests from the start of the ranks' thread.

    Args:
        model: the model's name.
        version: its version.
        ranks: take the rows; not started yet.
        priorities: how urgent a row may be.
        patience: seconds that a row may wait for a place; infinity for ever.
    """

    def __init__(self, model: str, version: int, ranks: Ranks, priorities: Priorities, patience: float):
        self._path = socket_path(os.getppid(), model, version)
        self._ranks = ranks
        self._priorities = priorities
        self._patience = patience
        self._admission: Admission | None = None
        self._max_prompt_bytes: int | None = None
        self._rows: dict[tuple[bytes, int], GuestRow] = {}
        self._texts: defaultdict[bytes, list[tuple[int, str]]] = defaultdict(list)
        """What goes to each guest next."""
        self._early: set[bytes] = set()
        """Guests that knocked before rows were taken."""
        tombstone(self._path).unlink(missing_ok=True)
        remove_leftovers(self._path)
        ranks.run_soon(self._open)

    def let_in(self, admission: Admission, max_prompt_bytes: int) -> None:
        """Take rows from now on."""

        def open_the_door() -> None:
            self._admission, self._max_prompt_bytes = admission, max_prompt_bytes
            for identity in self._early:
                self._welcome(identity)

        self._ranks.run_soon(open_the_door)

    def close(self) -> None:
        """Remove what was opened."""
        self._path.unlink(missing_ok=True)

    def give_up(self) -> None:
        """The model cannot load: tell a guest that has not met it. This process is about to end; the news stays."""
        self._path.unlink(missing_ok=True)
        tombstone(self._path).touch()

    def _open(self) -> None:
        self._socket = new_socket(zmq.ROUTER)
        self._socket.bind(f"ipc://{self._path}")
        self._ranks.read_too(self._socket, self._read)

    def _read(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                identity, frame = self._socket.recv_multipart(zmq.NOBLOCK)
                message = decode(frame)
                if isinstance(message, Knock):
                    self._welcome(identity)
                elif isinstance(message, Unreadable):
                    self._ranks.metrics.refused(message.kind)
                elif isinstance(message, Enter) and self._admission is not None:
                    self._enter(identity, message, self._admission)
                elif isinstance(message, Cancel) and (identity, message.id) in self._rows:
                    self._rows.pop((identity, message.id)).cancel()

    def _welcome(self, identity: bytes) -> None:
        if self._admission is None:
            self._early.add(identity)
        self.send(identity, Welcome(os.getpid(), self._max_prompt_bytes))

    def _enter(self, identity: bytes, request: Enter, admission: Admission) -> None:
        try:
            priority = self._priorities.check(request.priority)
        except BadRequestError as error:
            self.send(identity, Refused(request.id, "INVALID_ARG", str(error)))
            return
        row = GuestRow(self, identity, request, admission, self._ranks, priority, self._patience)
        self._rows[identity, request.id] = row
        admission.enter(row)

    def send(self, identity: bytes, message: Any) -> None:
        """Send to a guest. To be called on the ranks' thread."""
        self._socket.send_multipart([identity, encode(message)])

    def tell(self, identity: bytes, row_id: int, text: str) -> None:
        """Send new text of a row to a guest, with that of its other rows. To be called on the ranks' thread."""
        if not self._texts:
            self._ranks.run_soon(self._send_texts)  # once all is read that has come from the ranks
        self._texts[identity].append((row_id, text))

    def _send_texts(self) -> None:
        texts, self._texts = self._texts, defaultdict(list)
        for identity, rows in texts.items():
            self.send(identity, Deltas(rows))

    def settle(self, identity: bytes, message: Done | Refused) -> None:
        """Tell a guest the end of its row, from any thread."""

        def tell() -> None:
            if self._rows.pop((identity, message.id), None) is not None:
                self.send(identity, message)

        self._ranks.run_soon(tell)


class GuestRow(EndsOnce):
    """A guest's row: an `admission.Request`. Its end is told to the host, or was the guest's own wish."""

    places = 1

    def __init__(
        self,
        host: Host,
        identity: bytes,
        request: Enter,
        admission: Admission,
        ranks: Ranks,
        priority: int,
        patience: float,
    ):
        super().__init__()
        self.priority = priority
        self._arrived = time.monotonic()
        self.patient_until = self._arrived + patience
        self._host = host
        self._identity = identity
        self._request = request
        self._admission = admission
        self._ranks = ranks
        self._row_id: int | None = None

    def start(self) -> None:
        """Hand the row to the ranks."""
        with self._lock:
            if not self._ended:
                self._row_id = self._ranks.submit(self._request.row, self._arrived, self.settle, self._tell)
                return
        self._admission.leave(1)

    def turn_away(self, sentence: str) -> None:
        """Tell the guest that there was no place for it."""
        if self._end():
            self._host.settle(self._identity, Refused(self._request.id, "UNAVAILABLE", sentence))

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        if self._end() and not self._admission.withdraw(self) and self._row_id is not None:
            self._ranks.cancel(self._row_id)
            self._admission.leave(1)

    def settle(self, outcome: Outcome) -> None:
        """Give the place back and tell the guest what became of the row."""
        if not self._end():
            return
        self._admission.leave(1)
        if isinstance(outcome, Done):
            self._host.settle(self._identity, Done(self._request.id, outcome.answer, outcome.rest))
        else:
            self._host.settle(self._identity, Refused(self._request.id, outcome.kind, outcome.message))

    def _tell(self, text: str) -> None:
        self._host.tell(self._identity, self._request.id, text)
