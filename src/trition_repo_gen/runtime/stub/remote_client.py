"""The streaming model's side of the socket between two stubs: uses the ranks of another model through its stub."""

import contextlib
import itertools
import os
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import zmq

from ..common.parent_death import Guardian
from ..common.protocol import Cancel, Deltas, Done, ErrorKind, PromptLimit, Refused, SequenceRequest, decode, encode
from ..common.sockets import new_socket
from .event_loop import EventLoop, Timer
from .remote_protocol import Accepted, Connect, Rejected, Submit, disconnected_marker, socket_path
from .router import OnOutcome, OnText

_CONNECT_SECONDS = 0.5
"""How often to ask a stub server that does not take sequences yet."""
_RETRY_SECONDS = 0.05
"""How often to try to reach a stub server that is not there."""
_CONNECT_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class _Callbacks:
    on_outcome: OnOutcome
    on_text: OnText


class StubServerGoneError(RuntimeError):
    """The model whose ranks are shared is not there; the text says so."""


class RemoteClient:
    """Takes sequences as `Ranks` does, and sends them to the stub server. Callbacks run on its event loop's thread.

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
        self._loop = EventLoop("remote client", on_error=self._handle_error, on_stop=self._end)
        self._sequences: dict[int, _Callbacks] = {}
        self._prompt_limit: PromptLimit | None = None
        """Known while the stub server takes sequences."""
        self._server: int | None = None
        """Process file descriptor of the stub server, while it is connected."""
        self._next_attempt: Timer | None = None
        self._connected = threading.Event()
        self._settled = threading.Event()
        """Set once the stub server has taken sequences, or has ended."""
        self._guardian = Guardian(os.getppid())
        self._loop.run_soon(self._begin)

    # Called by the stub's threads.

    def start(self, timeout: float) -> PromptLimit:
        """Wait until the stub server takes sequences; return how long a prompt may be.

        Raises:
            StubServerGoneError: it did not answer within a minute, did not take sequences within `timeout` seconds, or
                ended.
        """
        self._loop.start()
        deadline = time.monotonic() + _CONNECT_TIMEOUT_SECONDS
        while not self._connected.wait(_CONNECT_SECONDS) and time.monotonic() < deadline:
            if disconnected_marker(self._path).exists():
                break
        if self._connected.is_set():
            self._settled.wait(timeout)
        if self._prompt_limit is None:
            self.stop()
            raise StubServerGoneError(
                f"Model {self._model!r}, whose ranks this one uses, does not run; load it as well."
            )
        return self._prompt_limit

    def submit(self, sequence: SequenceRequest, priority: Any, on_outcome: OnOutcome, on_text: OnText) -> int:
        """Submit a sequence with the priority that its request asked for. Return the sequence's id."""
        sequence_id = next(self._ids)
        submit = Submit(sequence_id, sequence, priority)
        self._loop.run_soon(partial(self._submit, submit, _Callbacks(on_outcome, on_text)))
        return sequence_id

    def count_rejected(self, kind: ErrorKind) -> None:
        """Count a request that was refused before it had a sequence; the stub server has the metrics."""
        self._loop.run_soon(partial(self._send, Rejected(kind)))

    def cancel(self, sequence_id: int) -> None:
        """End a sequence; its outcome is not reported."""
        self._loop.run_soon(partial(self._cancel, sequence_id))

    def stop(self) -> None:
        """End the thread; sequences that are still running are refused."""
        self._loop.stop()
        self._guardian.dismiss()

    # The loop's thread.

    def _begin(self) -> None:
        self._socket = new_socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # keep nothing for a stub server that is not there
        self._socket.connect(f"ipc://{self._path}")
        self._loop.watch(self._socket, self._receive)
        self._connect()

    def _end(self) -> None:
        self._refuse_all("The server is stopping.")
        if self._server is not None:
            self._forget_server()
        self._socket.close()

    def _handle_error(self, error: Exception) -> None:
        """Cancel and refuse all sequences instead of leaving those without an outcome that the error concerns."""
        traceback.print_exception(error)
        for sequence_id in self._sequences:
            self._send(Cancel(sequence_id))
        self._refuse_all(f"The thread that talks to model {self._model} broke: {error!r}.")

    def _connect(self) -> None:
        """Ask the stub server whether it takes sequences, again and again until it does."""
        seconds = _CONNECT_SECONDS if self._send(Connect()) else _RETRY_SECONDS
        self._next_attempt = self._loop.call_at(time.monotonic() + seconds, self._connect)

    def _send(self, message: Any) -> bool:
        """Send to the stub server; return whether it is there. The watch on its process reports its end."""
        try:
            self._socket.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _receive(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                self._handle(decode(self._socket.recv(zmq.NOBLOCK)))

    def _handle(self, message: Any) -> None:
        if isinstance(message, Deltas):
            for sequence_id, text in message.sequences:
                if callbacks := self._sequences.get(sequence_id):
                    callbacks.on_text(text)
        elif isinstance(message, Done | Refused):
            if callbacks := self._sequences.pop(message.id, None):
                callbacks.on_outcome(message)
        elif isinstance(message, Accepted) and self._prompt_limit is None:
            self._note_accepted(message)

    def _note_accepted(self, accepted: Accepted) -> None:
        if self._server is None:
            try:
                self._server = os.pidfd_open(accepted.pid)
            except ProcessLookupError:
                return
            self._loop.watch(self._server, self._server_ended)
            self._connected.set()
        if accepted.prompt_limit is not None:
            self._prompt_limit = accepted.prompt_limit
            if self._next_attempt is not None:
                self._next_attempt.cancel()
            self._settled.set()

    def _server_ended(self) -> None:
        self._forget_server()
        self._settled.set()
        self._log(f"model {self._model} is gone")
        self._refuse_all(f"Model {self._model} is gone; it is being waited for.")
        if self._next_attempt is not None:
            self._next_attempt.cancel()
        self._connect()

    def _forget_server(self) -> None:
        assert self._server is not None
        self._loop.unwatch(self._server)
        os.close(self._server)
        self._server = self._prompt_limit = None

    def _submit(self, submit: Submit, callbacks: _Callbacks) -> None:
        if self._prompt_limit is None:
            callbacks.on_outcome(Refused(submit.id, "UNAVAILABLE", f"Model {self._model} is not there."))
            return
        self._sequences[submit.id] = callbacks
        self._send(submit)

    def _cancel(self, sequence_id: int) -> None:
        if self._sequences.pop(sequence_id, None) is not None:
            self._send(Cancel(sequence_id))

    def _refuse_all(self, sentence: str) -> None:
        sequences, self._sequences = self._sequences, {}
        for sequence_id, callbacks in sequences.items():
            callbacks.on_outcome(Refused(sequence_id, "UNAVAILABLE", sentence))
