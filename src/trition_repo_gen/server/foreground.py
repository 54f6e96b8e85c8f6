"""Serves in the foreground: starts tritonserver, shows its log, and ends it at a signal."""

import contextlib
import signal
import socket
import sys
from collections.abc import Iterator

from .command import ServeOptions, plan
from .descendants import wait_for
from .process import Server, ServerExitedError, check_rest_process
from .rest_process import RestProcess, RunningRestProcess
from .watch import LogView

_END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """The signals that end the server, as a file descriptor that can be waited for together with processes."""

    def __init__(self, receiver: socket.socket) -> None:
        self._receiver = receiver

    def fileno(self) -> int:
        """Return the descriptor, which is readable once a signal has been received."""
        return self._receiver.fileno()

    @property
    def received(self) -> bool:
        """Whether a signal has been received and not taken."""
        return bool(wait_for([self.fileno()], 0))

    def take(self) -> signal.Signals | None:
        """Return the first signal received, and discard the others received so far."""
        try:
            numbers = self._receiver.recv(4096)
        except BlockingIOError:
            return None
        return signal.Signals(numbers[0])


@contextlib.contextmanager
def caught_signals() -> Iterator[Signals]:
    """Record SIGINT, SIGTERM and SIGHUP within the block, instead of ending. For the main thread only."""
    receiver, sender = socket.socketpair()
    receiver.setblocking(False)
    sender.setblocking(False)
    wakeup = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    # nohup has SIGHUP ignored, which stays so. A shell's `&` has SIGINT ignored, but a script that sends SIGINT later
    # wants the server to end.
    caught = [
        number for number in _END_SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    ]
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

    SIGINT and SIGTERM are passed on to tritonserver, SIGHUP as SIGTERM; further signals are ignored until tritonserver
    and its children have ended. The exit code is tritonserver's: 0 after an orderly end, also after a signal; 128 + N
    if signal N ended it, as happens while models load (130 after Ctrl-C, 143 after SIGTERM); 1 if a model cannot be
    loaded. The REST process starts together with tritonserver and ends with it. If it ends earlier, a line reports it,
    and tritonserver goes on serving.

    Raises:
        ServerError: nothing was started.
    """
    check_rest_process(plan(options), rest_process)
    view = LogView()
    with caught_signals() as signals:
        server = Server.start(options, tritonserver=tritonserver, on_line=view.show)
        rest: RunningRestProcess | None = None
        number = signal.SIGTERM
        try:
            if rest_process is not None and server.grpc_url is not None:
                rest = RunningRestProcess(rest_process, server.grpc_url, server.mark, view.show)
            if _wait_ready(server, rest, view, signals):
                _announce(server, rest)
            if code := _wait_end(server, rest, signals):
                _say(f"tritonserver exited with code {code}:\n{server.reason()}")
            if signals.take() == signal.SIGINT:
                number = signal.SIGINT
        except ServerExitedError as error:
            _say(str(error))
        finally:
            try:
                if rest is not None:
                    rest.terminate()
                code = server.stop(number)
            finally:
                if rest is not None:
                    rest.close()
    return code


def _wait_ready(server: Server, rest: RunningRestProcess | None, view: LogView, signals: Signals) -> bool:
    """Wait until everything takes requests; return False after a signal, or if readiness is unknown."""
    if server.http_url is None:
        _say("HTTP is turned off, so it is not known when the models are ready; see the log.")
        return False
    with view.progress(f"loading {', '.join(server.models)}"):
        if not server.wait_ready(wake=[signals.fileno()]):
            return False
    while rest is not None and rest.ended is not None and rest.announcement is None:
        server.wait(wake=[signals.fileno(), rest.announced, rest.ended])
        if server.exit_code() is not None or signals.received:
            return False
        _check_rest_process(rest)
    return True


def _wait_end(server: Server, rest: RunningRestProcess | None, signals: Signals) -> int | None:
    """Wait for tritonserver's end and return its exit code, or None after a signal."""
    while True:
        handles = [] if rest is None or rest.ended is None else [rest.ended]
        code = server.wait(wake=[signals.fileno(), *handles])
        if code is not None or signals.received:
            return code
        if rest is not None:
            _check_rest_process(rest)


def _check_rest_process(rest: RunningRestProcess) -> None:
    if rest.ended is not None and wait_for([rest.ended], 0):
        _say(rest.handle_end())


def _announce(server: Server, rest: RunningRestProcess | None) -> None:
    print(f"ready: http://{server.http_url} models: {' '.join(server.models)}")
    if rest is not None and rest.announcement is not None:
        print(rest.announcement)
    if server.models:
        print(f'query: trgen query -u {server.http_url} -mn {server.models[0]} -p "..."')
    sys.stdout.flush()


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)
