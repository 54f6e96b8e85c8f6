"""Serves in the foreground: starts tritonserver, shows its log, ends it when the user or the system says so."""

import contextlib
import signal
import socket
import sys
from collections.abc import Iterator

from .command import ServeOptions, plan
from .descendants import wait_for
from .process import Server, ServerExitedError, check_companion
from .rest_process import RestProcess, RunningRestProcess
from .watch import LogView

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """The signals that end the server, as a file descriptor, so that one wait covers them and tritonserver's end."""

    def __init__(self, receiver: socket.socket) -> None:
        self._receiver = receiver

    def fileno(self) -> int:
        """The descriptor that is readable when a signal has come."""
        return self._receiver.fileno()

    @property
    def came(self) -> bool:
        """Whether a signal has come that was not taken."""
        return bool(wait_for([self.fileno()], 0))

    def take(self) -> signal.Signals | None:
        """Return the first signal that came, and forget those that have come so far."""
        try:
            numbers = self._receiver.recv(4096)
        except BlockingIOError:
            return None
        return signal.Signals(numbers[0])


@contextlib.contextmanager
def caught_signals() -> Iterator[Signals]:
    """Within the block, SIGINT, SIGTERM and SIGHUP are only recorded. For the main thread only."""
    receiver, sender = socket.socketpair()
    receiver.setblocking(False)
    sender.setblocking(False)
    wakeup = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    # Whoever ran us under nohup wants no end at SIGHUP. A shell's `&` ignores SIGINT too, but a script that then sends
    # it means it.
    caught = [number for number in _ENDING if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda *_: None) for number in caught}
    try:
        yield Signals(receiver)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        receiver.close()
        sender.close()


def serve(options: ServeOptions, *, tritonserver: str | None = None, rest_process: RestProcess | None = None) -> int:
    """Serve until tritonserver ends or a signal comes; return the exit code of this process.

    SIGINT and SIGTERM go on to tritonserver, SIGHUP as SIGTERM; until it and its children have ended, further ones
    change nothing. The code is tritonserver's: 0 when it ended in order, also after a signal; 128 + N when signal N
    ended it, which is what happens while models load (130 after Ctrl-C, 143 after SIGTERM); 1 when a model cannot be
    loaded. A REST process starts at once and ends with tritonserver; when it ends by itself that is said, and
    tritonserver serves on.

    Raises:
        ServerError: nothing was started.
    """
    check_companion(plan(options), rest_process)
    view = LogView()
    with caught_signals() as signals:
        server = Server.start(options, tritonserver=tritonserver, on_line=view.show)
        beside: RunningRestProcess | None = None
        number = signal.SIGTERM
        try:
            if rest_process is not None and server.grpc_url is not None:
                beside = RunningRestProcess(rest_process, server.grpc_url, server.mark, view.show)
            if _wait_ready(server, beside, view, signals):
                _announce(server, beside)
            if code := _wait_end(server, beside, signals):
                _say(f"tritonserver exited with code {code}:\n{server.reason()}")
            if signals.take() == signal.SIGINT:
                number = signal.SIGINT
        except ServerExitedError as error:
            _say(str(error))
        finally:
            try:
                if beside is not None:
                    beside.terminate()
                code = server.stop(number)
            finally:
                if beside is not None:
                    beside.close()
    return code


def _wait_ready(server: Server, beside: RunningRestProcess | None, view: LogView, signals: Signals) -> bool:
    """Return whether everything takes requests; False when a signal came first, or when it cannot be known."""
    if server.http_url is None:
        _say("HTTP is turned off, so it is not known when the models are ready; see the log.")
        return False
    with view.progress(f"loading {', '.join(server.models)}"):
        if not server.wait_ready(wake=[signals.fileno()]):
            return False
    while beside is not None and beside.ended is not None and beside.announcement is None:
        server.wait(wake=[signals.fileno(), beside.announced, beside.ended])
        if server.exit_code() is not None or signals.came:
            return False
        _look_after(beside)
    return True


def _wait_end(server: Server, beside: RunningRestProcess | None, signals: Signals) -> int | None:
    """Wait for tritonserver's end and return its exit code, or None when a signal came first."""
    while True:
        handles = [] if beside is None or beside.ended is None else [beside.ended]
        code = server.wait(wake=[signals.fileno(), *handles])
        if code is not None or signals.came:
            return code
        if beside is not None:
            _look_after(beside)


def _look_after(beside: RunningRestProcess) -> None:
    if beside.ended is not None and wait_for([beside.ended], 0):
        _say(beside.look_after())


def _announce(server: Server, beside: RunningRestProcess | None) -> None:
    print(f"ready: http://{server.http_url} models: {' '.join(server.models)}")
    if beside is not None and beside.announcement is not None:
        print(beside.announcement)
    if server.models:
        print(f'query: trgen query -u {server.http_url} -mn {server.models[0]} -p "..."')
    sys.stdout.flush()


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)
