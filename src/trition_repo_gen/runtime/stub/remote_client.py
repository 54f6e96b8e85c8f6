"""The side of a streaming twin that uses the ranks of its model, through that model's stub."""

import contextlib
import itertools
import math
import os
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import zmq

from ..common.mailbox import Mailbox
from ..common.parent_death import Guardian
from ..common.protocol import Cancel, Deltas, Done, ErrorKind, Refused, Row, decode, encode
from ..common.sockets import Socket, new_socket
from .ranks import OnOutcome, OnText
from .remote_protocol import Enter, Knock, Unreadable, Welcome, socket_path, tombstone

_KNOCK_SECONDS = 0.5
_LOOK_MILLISECONDS = 50
"""How often a guest without a host looks whether it may knock."""
_MEETING_SECONDS = 60.0


@dataclass(frozen=True)
class _Guided:
    on_outcome: OnOutcome
    on_text: OnText


class HostGoneError(RuntimeError):
    """The model whose ranks are shared is not there; the text says so."""


class Guest:
    """Takes rows as `Ranks` does. One thread talks to the host and calls back.

    Args:
        model: the name of the model that has the ranks.
        version: its version.
        log: takes lines for the server's log.
    """

    def __init__(self, model: str, version: int, log: Callable[[str], None]):
        self._model = model
        self._path = socket_path(os.getppid(), model, version)
        self._log = log
        self._ids = itertools.count(1)
        self._commands: Mailbox[tuple[Enter, _Guided] | Cancel | Unreadable | None] = Mailbox()
        self._rows: dict[int, _Guided] = {}
        self._max_prompt_bytes: int | None = None
        """Known while the host takes rows."""
        self._host: int | None = None
        """Process file descriptor of the host."""
        self._met = threading.Event()
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="guest", daemon=True)
        self._guardian = Guardian(os.getppid())

    def start(self, timeout: float) -> int:
        """Wait until the host takes rows; return how many bytes a prompt may have at the most.

        Raises:
            HostGoneError: it did not come within a minute, did not take rows within `timeout` seconds, or ended.
        """
        self._thread.start()
        deadline = time.monotonic() + _MEETING_SECONDS
        while not self._met.wait(_KNOCK_SECONDS) and time.monotonic() < deadline:
            if tombstone(self._path).exists():
                break
        if self._met.is_set():
            self._settled.wait(timeout)
        if self._max_prompt_bytes is None:
            self.stop()
            raise HostGoneError(f"Model {self._model!r}, whose ranks this one uses, does not run; load it as well.")
        return self._max_prompt_bytes

    def submit(self, row: Row, priority: Any, on_outcome: OnOutcome, on_text: OnText) -> int:
        """Hand a row over, with the priority that its request asked for; callbacks come on the guest's thread.

        Returns:
            the row's id.
        """
        row_id = next(self._ids)
        self._commands.put((Enter(row_id, row, priority), _Guided(on_outcome, on_text)))
        return row_id

    def count_unreadable(self, kind: ErrorKind) -> None:
        """Have a request counted that was refused before it had a row."""
        self._commands.put(Unreadable(kind))

    def cancel(self, row_id: int) -> None:
        """Nobody waits for the row any more: its outcome will not be reported."""
        self._commands.put(Cancel(row_id))

    def stop(self) -> None:
        """End; rows that are still running are refused."""
        self._commands.put(None)
        self._thread.join()
        self._guardian.dismiss()

    def _run(self) -> None:
        socket = new_socket(zmq.DEALER)
        socket.setsockopt(zmq.IMMEDIATE, 1)  # keep nothing for a host that is not there
        socket.connect(f"ipc://{self._path}")
        self._poller = zmq.Poller()
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(self._commands, zmq.POLLIN)
        try:
            knocked = -math.inf
            running = True
            while running:
                due = self._max_prompt_bytes is None and time.monotonic() - knocked >= _KNOCK_SECONDS
                if due and _send(socket, Knock()):
                    knocked = time.monotonic()
                running = self._serve_events(socket)
        finally:
            self._refuse_all("The server is stopping.")
            socket.close()

    def _serve_events(self, socket: Socket) -> bool:
        events = self._poller.poll(_LOOK_MILLISECONDS if self._max_prompt_bytes is None else None)
        try:
            return self._handle_events(events, socket)
        except Exception as error:  # a mistake of ours: nobody is to wait for what it lost
            traceback.print_exc()
            for row_id in self._rows:
                _send(socket, Cancel(row_id))
            self._refuse_all(f"The thread that talks to model {self._model} broke: {error!r}.")
            return True

    def _handle_events(self, events: list[tuple[Any, int]], socket: Socket) -> bool:
        for event, _ in events:
            if event is socket:
                self._receive(socket)
            elif event == self._host:
                self._lose_host()
        for command in self._commands.take_all():
            if command is None:
                return False
            self._handle(command, socket)
        return True

    def _receive(self, socket: Socket) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                message = decode(socket.recv(zmq.NOBLOCK))
                if isinstance(message, Deltas):
                    for row_id, text in message.rows:
                        if row := self._rows.get(row_id):
                            row.on_text(text)
                elif isinstance(message, Done | Refused):
                    if row := self._rows.pop(message.id, None):
                        row.on_outcome(message)
                elif isinstance(message, Welcome) and self._max_prompt_bytes is None:
                    self._meet(message)

    def _meet(self, welcome: Welcome) -> None:
        if self._host is None:
            try:
                self._host = os.pidfd_open(welcome.pid)
            except ProcessLookupError:
                return
            self._poller.register(self._host, zmq.POLLIN)
            self._met.set()
        if welcome.max_prompt_bytes is not None:
            self._max_prompt_bytes = welcome.max_prompt_bytes
            self._settled.set()

    def _lose_host(self) -> None:
        assert self._host is not None
        self._poller.unregister(self._host)
        os.close(self._host)
        self._host = self._max_prompt_bytes = None
        self._settled.set()
        self._log(f"model {self._model} is gone")
        self._refuse_all(f"Model {self._model} is gone; it is being waited for.")

    def _handle(self, command: "tuple[Enter, _Guided] | Cancel | Unreadable", socket: Socket) -> None:
        if isinstance(command, Unreadable):
            _send(socket, command)
            return
        if isinstance(command, Cancel):
            if self._rows.pop(command.id, None) is not None:
                _send(socket, command)
            return
        request, row = command
        if self._max_prompt_bytes is None:
            row.on_outcome(Refused(request.id, "UNAVAILABLE", f"Model {self._model} is not there."))
            return
        self._rows[request.id] = row
        _send(socket, request)

    def _refuse_all(self, sentence: str) -> None:
        rows, self._rows = self._rows, {}
        for row_id, row in rows.items():
            row.on_outcome(Refused(row_id, "UNAVAILABLE", sentence))


def _send(socket: Socket, message: Any) -> bool:
    """Send to the host if it is there; return whether it is. That it has ended its process descriptor tells."""
    try:
        socket.send(encode(message), zmq.NOBLOCK)
    except zmq.Again:
        return False
    return True
