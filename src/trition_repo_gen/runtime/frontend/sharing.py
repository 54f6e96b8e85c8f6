"""How the streaming twin of a model uses that model's ranks: two stubs of one tritonserver, and a socket between them.

The twin's stub (`Guest`) sends rows to the model's stub (`Host`), which treats them like its own: the same admission,
the same ranks. All of the host runs on the ranks' thread.
"""

import contextlib
import itertools
import math
import os
import queue
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from ..protocol import Cancel, Done, Refused, Row, decode, encode, register
from .admission import Admission
from .ranks import OnOutcome, OnText, Outcome, Ranks

_KNOCK_SECONDS = 0.5
_MEETING_SECONDS = 60.0


@register
@dataclass(frozen=True)
class Knock:
    """A guest asks whether the host is there."""


@register
@dataclass(frozen=True)
class Welcome:
    """The host is there, in process `pid`. It takes rows once it says how many bytes a prompt may have at the most."""

    pid: int
    max_prompt_bytes: int | None


@register
@dataclass(frozen=True)
class Enter:
    """A row to continue; what comes of it has the same `id`."""

    id: int
    row: Row


@register
@dataclass(frozen=True)
class Text:
    """New text of a row that streams."""

    id: int
    text: str


def socket_path(server: int, model: str, version: int) -> Path:
    """Return where the stub of a model listens; only this user may enter the folder.

    Args:
        server: the process id of tritonserver, which all its stubs know.
        model: the model's name.
        version: its version.

    Raises:
        PermissionError: the folder belongs to somebody else.
    """
    folder = Path(tempfile.gettempdir(), f"trgen-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{folder} is not this user's alone; remove it.")
    return folder / f"{server}-{model}-{version}"


def _tombstone(path: Path) -> Path:
    """Return the file that says that the host at `path` cannot load."""
    return path.with_name(f"{path.name}.failed")


class Host:
    """The model's side. Answers guests from the start of the ranks' thread, on that thread.

    Args:
        model: the model's name.
        version: its version.
        ranks: take the rows; not started yet.
        patience: seconds that a row may wait for a place; infinity for ever.
    """

    def __init__(self, model: str, version: int, ranks: Ranks, patience: float):
        self._path = socket_path(os.getppid(), model, version)
        self._ranks = ranks
        self._patience = patience
        self._admission: Admission | None = None
        self._max_prompt_bytes: int | None = None
        self._rows: dict[tuple[bytes, int], _GuestRow] = {}
        _tombstone(self._path).unlink(missing_ok=True)
        ranks.run_soon(self._open)

    def let_in(self, admission: Admission, max_prompt_bytes: int) -> None:
        """Take rows from now on."""
        self._admission, self._max_prompt_bytes = admission, max_prompt_bytes

    def close(self) -> None:
        """Remove what was opened."""
        self._path.unlink(missing_ok=True)
        _tombstone(self._path).unlink(missing_ok=True)

    def give_up(self) -> None:
        """The model cannot load: tell a guest that has not met it."""
        self._path.unlink(missing_ok=True)
        _tombstone(self._path).touch()

    def _open(self) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(f"ipc://{self._path}")
        self._ranks.read_too(self._socket, self._read)

    def _read(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                identity, frame = self._socket.recv_multipart(zmq.NOBLOCK)
                message = decode(frame)
                if isinstance(message, Knock):
                    self.send(identity, Welcome(os.getpid(), self._max_prompt_bytes))
                elif isinstance(message, Enter) and self._admission is not None:
                    row = _GuestRow(self, identity, message, self._admission, self._ranks, self._patience)
                    self._rows[identity, message.id] = row
                    self._admission.enter(row)
                elif isinstance(message, Cancel) and (identity, message.id) in self._rows:
                    self._rows.pop((identity, message.id)).cancel()

    def send(self, identity: bytes, message: Any) -> None:
        """Send to a guest. To be called on the ranks' thread."""
        self._socket.send_multipart([identity, encode(message)])

    def settle(self, identity: bytes, message: "Done | Refused") -> None:
        """Tell a guest the end of its row, from any thread."""

        def tell() -> None:
            if self._rows.pop((identity, message.id), None) is not None:
                self.send(identity, message)

        self._ranks.run_soon(tell)


class _GuestRow:
    """A guest's row: an `admission.Request`."""

    places = 1

    def __init__(
        self, host: Host, identity: bytes, request: Enter, admission: Admission, ranks: Ranks, patience: float
    ):
        self._arrived = time.monotonic()
        self.patient_until = self._arrived + patience
        self._host = host
        self._identity = identity
        self._request = request
        self._admission = admission
        self._ranks = ranks
        self._lock = threading.Lock()
        self._row_id: int | None = None
        self._cancelled = False

    def start(self) -> None:
        with self._lock:
            if not self._cancelled:
                self._row_id = self._ranks.submit(self._request.row, self._arrived, self._settle, self._tell)
                return
        self._admission.leave(1)

    def turn_away(self, sentence: str) -> None:
        self._host.settle(self._identity, Refused(self._request.id, "UNAVAILABLE", sentence))

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
        if not self._admission.withdraw(self) and self._row_id is not None:
            self._ranks.cancel(self._row_id)
            self._admission.leave(1)

    def _tell(self, text: str) -> None:
        self._host.send(self._identity, Text(self._request.id, text))

    def _settle(self, outcome: Outcome) -> None:
        with self._lock:
            if self._cancelled:
                return
        self._admission.leave(1)
        if isinstance(outcome, Done):
            self._host.settle(self._identity, Done(self._request.id, outcome.answer, outcome.rest))
        else:
            self._host.settle(self._identity, Refused(self._request.id, outcome.kind, outcome.message))


@dataclass(frozen=True)
class _Guided:
    on_outcome: OnOutcome
    on_text: OnText


class HostGoneError(RuntimeError):
    """The model whose ranks are shared is not there; the text says so."""


class Guest:
    """The twin's side: takes rows as `Ranks` does. One thread talks to the host and calls back.

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
        self._commands: queue.SimpleQueue[tuple[Enter, _Guided] | Cancel | None] = queue.SimpleQueue()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK)
        self._rows: dict[int, _Guided] = {}
        self._max_prompt_bytes: int | None = None
        """Known while the host takes rows."""
        self._host: int | None = None
        """Process file descriptor of the host."""
        self._met = threading.Event()
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="guest", daemon=True)

    def start(self, timeout: float) -> int:
        """Wait until the host takes rows; return how many bytes a prompt may have at the most.

        Raises:
            HostGoneError: it did not come within a minute, did not take rows within `timeout` seconds, or ended.
        """
        self._thread.start()
        deadline = time.monotonic() + _MEETING_SECONDS
        while not self._met.wait(_KNOCK_SECONDS) and time.monotonic() < deadline:
            if _tombstone(self._path).exists():
                break
        if self._met.is_set():
            self._settled.wait(timeout)
        if self._max_prompt_bytes is None:
            self.stop()
            raise HostGoneError(f"Model {self._model!r}, whose ranks this one uses, does not run; load it as well.")
        return self._max_prompt_bytes

    def submit(self, row: Row, on_outcome: OnOutcome, on_text: OnText) -> int:
        """Hand a row over; callbacks come on the guest's thread. Returns the row's id."""
        row_id = next(self._ids)
        self._command((Enter(row_id, row), _Guided(on_outcome, on_text)))
        return row_id

    def cancel(self, row_id: int) -> None:
        """Nobody waits for the row any more: its outcome will not be reported."""
        self._command(Cancel(row_id))

    def stop(self) -> None:
        """End; rows that are still running are refused."""
        self._command(None)
        self._thread.join()

    def _command(self, command: "tuple[Enter, _Guided] | Cancel | None") -> None:
        self._commands.put(command)
        os.eventfd_write(self._bell, 1)

    def _run(self) -> None:
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(f"ipc://{self._path}")
        self._poller = zmq.Poller()
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(self._bell, zmq.POLLIN)
        self._server = os.pidfd_open(os.getppid())
        self._poller.register(self._server, zmq.POLLIN)
        try:
            knocked = -math.inf
            running = True
            while running:
                if self._max_prompt_bytes is None and time.monotonic() - knocked >= _KNOCK_SECONDS:
                    socket.send(encode(Knock()))
                    knocked = time.monotonic()
                running = self._serve_events(socket)
        finally:
            self._refuse_all("The server is stopping.")
            socket.close()

    def _serve_events(self, socket: "zmq.Socket[bytes]") -> bool:
        for event, _ in self._poller.poll(round(_KNOCK_SECONDS * 1000) if self._max_prompt_bytes is None else None):
            if event is socket:
                self._receive(socket)
            elif event == self._host:
                self._lose_host()
            elif event == self._server:
                # Killed; see `Ranks`: Triton's stub does not notice that before somebody reaps it.
                os.kill(os.getpid(), signal.SIGKILL)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        with contextlib.suppress(queue.Empty):
            while True:
                command = self._commands.get_nowait()
                if command is None:
                    return False
                self._handle(command, socket)
        return True

    def _receive(self, socket: "zmq.Socket[bytes]") -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                message = decode(socket.recv(zmq.NOBLOCK))
                if isinstance(message, Text):
                    if row := self._rows.get(message.id):
                        row.on_text(message.text)
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

    def _handle(self, command: "tuple[Enter, _Guided] | Cancel", socket: "zmq.Socket[bytes]") -> None:
        if isinstance(command, Cancel):
            if self._rows.pop(command.id, None) is not None:
                socket.send(encode(command))
            return
        request, row = command
        if self._max_prompt_bytes is None:
            row.on_outcome(Refused(request.id, "UNAVAILABLE", f"Model {self._model} is not there."))
            return
        self._rows[request.id] = row
        socket.send(encode(request))

    def _refuse_all(self, sentence: str) -> None:
        rows, self._rows = self._rows, {}
        for row_id, row in rows.items():
            row.on_outcome(Refused(row_id, "UNAVAILABLE", sentence))
