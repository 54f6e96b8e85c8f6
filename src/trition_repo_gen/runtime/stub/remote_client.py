"""The side of a streaming model that uses the ranks of its model, through that model's stub."""

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
from ..common.protocol import Cancel, Deltas, Done, ErrorKind, Refused, SequenceRequest, decode, encode
from ..common.sockets import Socket, new_socket
from .ranks import OnOutcome, OnText
from .remote_protocol import Accepted, Connect, Rejected, Submit, disconnected_marker, socket_path

_CONNECT_SECONDS = 0.5
_POLL_MILLISECONDS = 50
"""How often a remote client without a stub server looks whether it may connects."""
_CONNECT_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class _Callbacks:
    on_outcome: OnOutcome
    on_text: OnText


class StubServerGoneError(RuntimeError):
    """The model whose ranks are shared is not there; the text says so."""


class RemoteClient:
    """Takes sequences as `Ranks` does. One thread talks to the stub server and calls back.

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
        self._commands: Mailbox[tuple[Submit, _Callbacks] | Cancel | Rejected | None] = Mailbox()
        self._sequences: dict[int, _Callbacks] = {}
        self._max_prompt_bytes: int | None = None
        """Known while the stub server takes sequences."""
        self._server: int | None = None
        """Process file descriptor of the stub server."""
        self._connected = threading.Event()
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="guest", daemon=True)
        self._guardian = Guardian(os.getppid())

    def start(self, timeout: float) -> int:
        """Wait until the stub server takes sequences; return how many bytes a prompt may have at the most.

        Raises:
            HostGoneError: it did not come within a minute, did not take sequences within `timeout` seconds, or ended.
        """
        self._thread.start()
        deadline = time.monotonic() + _CONNECT_TIMEOUT_SECONDS
        while not self._connected.wait(_CONNECT_SECONDS) and time.monotonic() < deadline:
            if disconnected_marker(self._path).exists():
                break
        if self._connected.is_set():
            self._settled.wait(timeout)
        if self._max_prompt_bytes is None:
            self.stop()
            raise StubServerGoneError(
                f"Model {self._model!r}, whose ranks this one uses, does not run; load it as well."
            )
        return self._max_prompt_bytes

    def submit(self, sequence: SequenceRequest, priority: Any, on_outcome: OnOutcome, on_text: OnText) -> int:
        """Submit a sequence with the priority that its request asked for; callbacks run on the client's thread.

        Returns:
            the sequence's id.
        """
        sequence_id = next(self._ids)
        self._commands.put((Submit(sequence_id, sequence, priority), _Callbacks(on_outcome, on_text)))
        return sequence_id

    def count_rejected(self, kind: ErrorKind) -> None:
        """Have a request counted that was refused before it had a sequence."""
        self._commands.put(Rejected(kind))

    def cancel(self, sequence_id: int) -> None:
        """Nobody waits for the sequence any more: its outcome will not be reported."""
        self._commands.put(Cancel(sequence_id))

    def stop(self) -> None:
        """End; sequences that are still running are refused."""
        self._commands.put(None)
        self._thread.join()
        self._guardian.dismiss()

    def _run(self) -> None:
        socket = new_socket(zmq.DEALER)
        socket.setsockopt(zmq.IMMEDIATE, 1)  # keep nothing for a stub server that is not there
        socket.connect(f"ipc://{self._path}")
        self._poller = zmq.Poller()
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(self._commands, zmq.POLLIN)
        try:
            asked = -math.inf
            running = True
            while running:
                due = self._max_prompt_bytes is None and time.monotonic() - asked >= _CONNECT_SECONDS
                if due and _send(socket, Connect()):
                    asked = time.monotonic()
                running = self._serve_events(socket)
        finally:
            self._refuse_all("The server is stopping.")
            socket.close()

    def _serve_events(self, socket: Socket) -> bool:
        events = self._poller.poll(_POLL_MILLISECONDS if self._max_prompt_bytes is None else None)
        try:
            return self._handle_events(events, socket)
        except Exception as error:  # a mistake of ours: nobody is to wait for what it lost
            traceback.print_exc()
            for sequence_id in self._sequences:
                _send(socket, Cancel(sequence_id))
            self._refuse_all(f"The thread that talks to model {self._model} broke: {error!r}.")
            return True

    def _handle_events(self, events: list[tuple[Any, int]], socket: Socket) -> bool:
        for event, _ in events:
            if event is socket:
                self._receive(socket)
            elif event == self._server:
                self._lose_server()
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
                    for sequence_id, text in message.sequences:
                        if sequence := self._sequences.get(sequence_id):
                            sequence.on_text(text)
                elif isinstance(message, Done | Refused):
                    if sequence := self._sequences.pop(message.id, None):
                        sequence.on_outcome(message)
                elif isinstance(message, Accepted) and self._max_prompt_bytes is None:
                    self._accept(message)

    def _accept(self, accepted: Accepted) -> None:
        if self._server is None:
            try:
                self._server = os.pidfd_open(accepted.pid)
            except ProcessLookupError:
                return
            self._poller.register(self._server, zmq.POLLIN)
            self._connected.set()
        if accepted.max_prompt_bytes is not None:
            self._max_prompt_bytes = accepted.max_prompt_bytes
            self._settled.set()

    def _lose_server(self) -> None:
        assert self._server is not None
        self._poller.unregister(self._server)
        os.close(self._server)
        self._server = self._max_prompt_bytes = None
        self._settled.set()
        self._log(f"model {self._model} is gone")
        self._refuse_all(f"Model {self._model} is gone; it is being waited for.")

    def _handle(self, command: "tuple[Submit, _Callbacks] | Cancel | Rejected", socket: Socket) -> None:
        if isinstance(command, Rejected):
            _send(socket, command)
            return
        if isinstance(command, Cancel):
            if self._sequences.pop(command.id, None) is not None:
                _send(socket, command)
            return
        request, sequence = command
        if self._max_prompt_bytes is None:
            sequence.on_outcome(Refused(request.id, "UNAVAILABLE", f"Model {self._model} is not there."))
            return
        self._sequences[request.id] = sequence
        _send(socket, request)

    def _refuse_all(self, sentence: str) -> None:
        sequences, self._sequences = self._sequences, {}
        for sequence_id, sequence in sequences.items():
            sequence.on_outcome(Refused(sequence_id, "UNAVAILABLE", sentence))


def _send(socket: Socket, message: Any) -> bool:
    """Send to the stub server if it is there; return whether it is. That it has ended its process descriptor tells."""
    try:
        socket.send(encode(message), zmq.NOBLOCK)
    except zmq.Again:
        return False
    return True
