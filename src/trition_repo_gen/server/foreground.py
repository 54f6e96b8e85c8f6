"""Serves in the foreground: starts tritonserver, shows its log, ends it when the user or the system says so."""

import contextlib
import signal
import socket
import sys
from collections.abc import Iterator

from .command import ServeOptions
from .process import Server, ServerExitedError
from .watch import LogView

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """The signals that end the server, as a file descriptor, so that one wait covers them and tritonserver's end."""

    def __init__(self, receiver: socket.socket) -> None:
        self._receiver = receiver

    def fileno(self) -> int:
        """The descriptor that is readable when a signal has come."""
        return self._receiver.fileno()

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


def serve(options: ServeOptions, *, tritonserver: str | None = None) -> int:
    """Serve until tritonserver ends or a signal comes; return the exit code of this process.

    SIGINT and SIGTERM go on to tritonserver, SIGHUP as SIGTERM; until it and its children have ended, further ones
    change nothing. The code is tritonserver's: 0 when it ended in order, also after a signal; 128 + N when signal N
    ended it, which is what happens while models load (130 after Ctrl-C, 143 after SIGTERM); 1 when a model cannot be
    loaded.

    Raises:
        ServerError: nothing was started.
    """
    view = LogView()
    with caught_signals() as signals:
        server = Server.start(options, tritonserver=tritonserver, on_line=view.show)
        number = signal.SIGTERM
        try:
            if _wait_ready(server, view, signals):
                _announce(server)
            code = server.wait(wake=signals.fileno())
            if code:
                _say(f"tritonserver exited with code {code}:\n{server.reason()}")
            if signals.take() == signal.SIGINT:
                number = signal.SIGINT
        except ServerExitedError as error:
            _say(str(error))
        finally:
            code = server.stop(number)
    return code


def _wait_ready(server: Server, view: LogView, signals: Signals) -> bool:
    if server.http_url is None:
        _say("HTTP is turned off, so it is not known when the models are ready; see the log.")
        return False
    with view.progress(f"loading {', '.join(server.models)}"):
        return server.wait_ready(wake=signals.fileno())


def _announce(server: Server) -> None:
    print(f"ready: http://{server.http_url} models: {' '.join(server.models)}")
    if server.models:
        print(f'query: trgen query -u {server.http_url} -mn {server.models[0]} -p "..."')
    sys.stdout.flush()


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)
