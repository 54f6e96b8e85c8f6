"""A running tritonserver: starts it, follows its log, waits for its models, and ends it with all its processes."""

import collections
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO

from trition_repo_gen.errors import ServerError
from trition_repo_gen.runtime.common import log_lines

from .command import ServeOptions, StepPlan, check_ports, models_to_wait_for, plan
from .descendants import MARK, end_marked, marked_processes, name_of, wait_for
from .find import find_tritonserver
from .prepare import prepare
from .rest_process import RestProcess
from .watch import first_unready

POLL_INTERVAL = 0.1
"""Seconds between two questions whether the models are ready."""

_SLACK = 3
"""Seconds on top of the exit timeout after which a tritonserver that was told to end is killed."""

_KEPT_LINES = 200
_ERROR = re.compile(rf"error:|{re.escape(log_lines.MARK)}|E\d{{4}} |Signal \(\d+\) received")
_LOST_RACE = "boost::interprocess::lock_exception"
_NO_GPU = re.compile("CudaDriverHelper has not been initialized")  # logged as an error wherever there is no GPU
_RANK = re.compile(r"rank (\d+)")  # how a rank names its process
_PARENT_DEATH = Path(__file__).with_name("parent_death.py")


class ServerExitedError(ServerError):
    """tritonserver exited before its models were ready."""


class Server:
    """A tritonserver that this process started and that ends when it does.

    Start one with `Server.start` or, so that it also ends, with `running_server`. Call `start` from the main thread:
    tritonserver is told to end when the thread that started it does.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        chosen: StepPlan,
        models: tuple[str, ...],
        mark: str,
        on_line: Callable[[str], None],
    ) -> None:
        self._process = process
        self._plan = chosen
        self._models = models
        self._mark = mark
        self._on_line = on_line
        self._log: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
        self._ended = os.pidfd_open(process.pid)
        assert process.stdout is not None
        self._reader = threading.Thread(
            target=self._follow, args=(process.stdout,), name="tritonserver-log", daemon=True
        )
        self._reader.start()

    @classmethod
    def start(
        cls,
        options: ServeOptions,
        *,
        tritonserver: str | None = None,
        on_line: Callable[[str], None] = lambda line: None,
    ) -> "Server":
        """Start tritonserver; its models load in the background.

        Args:
            options: what to serve, and where.
            tritonserver: the program's path; found by `find_tritonserver` unless given.
            on_line: called from a thread with every line of the log, without its end.

        Raises:
            ServerError: nothing was started: no tritonserver, no model, a port in use, or a stub that cannot run.
        """
        chosen = plan(options)
        models = models_to_wait_for(chosen)
        check_ports(chosen)
        found = find_tritonserver(tritonserver)
        launch = prepare(found)
        mark = uuid.uuid4().hex
        arguments = [*launch.arguments, *_shared_memory(mark), *chosen.arguments]
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", _PARENT_DEATH, str(os.getpid()), str(found.path), *arguments],
            env=launch.environment | {MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A session of its own: a terminal's Ctrl-C reaches us alone, and we pass it on in order.
            start_new_session=True,
        )
        return cls(process, chosen, models, mark, on_line)

    @property
    def pid(self) -> int:
        """The process id of tritonserver."""
        return self._process.pid

    @property
    def mark(self) -> str:
        """What all its processes have in their environment; see `descendants`."""
        return self._mark

    def ranks(self) -> dict[int, int]:
        """Return the process ids of the ranks that its stubs have started, by rank."""
        found: dict[int, int] = {}
        for pid in sorted(marked_processes(self._mark)):
            if match := _RANK.fullmatch(name_of(pid)):
                found.setdefault(int(match[1]), pid)  # what a rank forks has its name, too
        return found

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models that are served."""
        return self._models

    @property
    def http_url(self) -> str | None:
        """`host:port` to connect to, as tritonclient.http takes it; None when HTTP is off."""
        return self._plan.http.url if self._plan.http else None

    @property
    def grpc_url(self) -> str | None:
        """`host:port` to connect to, as tritonclient.grpc takes it; None when gRPC is off."""
        return self._plan.grpc.url if self._plan.grpc else None

    @property
    def metrics_url(self) -> str | None:
        """`host:port` of the Prometheus metrics; None when they are off."""
        return self._plan.metrics.url if self._plan.metrics else None

    def log(self) -> list[str]:
        """Return the last lines that tritonserver and its children wrote."""
        return list(self._log)

    def exit_code(self) -> int | None:
        """Return what tritonserver exited with, 128 + N when signal N ended it, None while it runs."""
        code = self._process.poll()
        return 128 - code if code is not None and code < 0 else code

    def wait(self, seconds: float | None = None, wake: Collection[int] = ()) -> int | None:
        """Wait until tritonserver has exited; return its exit code, or None when something else came first.

        Args:
            seconds: the longest time to wait; None waits for ever.
            wake: file descriptors that end the wait when one of them becomes readable.
        """
        wait_for([self._ended, *wake], seconds)
        return self.exit_code()

    def wait_ready(self, seconds: float | None = None, wake: Collection[int] = ()) -> bool:
        """Wait until every model answers; return False when one of `wake` became readable before that.

        Raises:
            ServerExitedError: tritonserver exited first; the text ends with what its log says about it.
            ServerError: time ran out.
        """
        if self._plan.http is None:
            raise ServerError("Readiness is asked for over HTTP, which --allow-http turned off.")
        handles = [self._ended, *wake]
        deadline = None if seconds is None else time.monotonic() + seconds
        while (unready := first_unready(self._plan.http, self.models)) is not None:
            readable = wait_for(handles, POLL_INTERVAL)
            if self._ended in readable:
                self._process.wait()
                self._reader.join(_SLACK)
                raise ServerExitedError(
                    f"tritonserver exited with code {self.exit_code()} before {unready} was ready:\n{self.reason()}"
                )
            if readable:
                return False
            if deadline is not None and time.monotonic() > deadline:
                raise ServerError(f"{unready} was not ready after {seconds} s; the log ends with:\n{self.reason()}")
        return True

    @property
    def lost_its_race(self) -> bool:
        """Whether tritonserver aborted as it does now and then where two Python models begin to load at once."""
        return any(_LOST_RACE in line for line in self.log())

    def reason(self) -> str:
        """Return the log's last lines that say why something went wrong."""
        return "\n".join(reason(self.log()))

    def send_signal(self, number: int) -> None:
        """Send a signal to tritonserver alone."""
        self._process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End tritonserver and every process that descends from it; return its exit code as `exit_code` does.

        While it serves, SIGTERM and SIGINT let it finish what is in flight; while it loads they end it at once. It is
        killed when it takes longer than its exit timeout and a little more. Ending a second time does nothing.

        Args:
            number: the signal to send.

        Raises:
            ServerError: a process lives on although it was killed.
        """
        if self.exit_code() is None:
            self.send_signal(number)
            if self.wait(self._plan.exit_timeout + _SLACK) is None:
                self._process.kill()
        self._process.wait()
        left = end_marked(self._mark)
        self._remove_shared_memory()
        self._reader.join(_SLACK)
        if self._ended >= 0:
            os.close(self._ended)
            self._ended = -1
        if left:
            raise ServerError(
                f"The processes {', '.join(map(str, left))} of tritonserver do not end; end them by hand."
            )
        code = self.exit_code()
        assert code is not None
        return code

    def _follow(self, stream: IO[bytes]) -> None:
        # The stub and the ranks hold the pipe too: it ends with the last of them.
        with stream:
            for raw in stream:
                line = raw.decode(errors="replace").rstrip("\r\n")
                self._log.append(line)
                self._on_line(line)

    def _remove_shared_memory(self) -> None:
        # A stub removes its region itself, unless it was killed.
        for region in Path("/dev/shm").glob(f"trgen-{self._mark}*"):
            with contextlib.suppress(OSError):
                region.unlink()


def check(options: ServeOptions, *, tritonserver: str | None = None, rest_process: RestProcess | None = None) -> None:
    """Find out what would keep a server from starting, whatever its repository holds; start nothing.

    Raises:
        ServerError: no tritonserver, a stub that cannot run, a port in use, or a REST process that cannot talk to it.
    """
    chosen = plan(options)
    check_companion(chosen, rest_process)
    check_ports(chosen)
    prepare(find_tritonserver(tritonserver))


def check_companion(chosen: StepPlan, rest_process: RestProcess | None) -> None:
    """Find out what would keep a REST process from working beside a server.

    Raises:
        ServerError: its port is in use or one of the server's, or gRPC is turned off.
    """
    if rest_process is None:
        return
    if chosen.grpc is None:
        raise ServerError(f"The {rest_process.name} talks to tritonserver over gRPC, which is turned off.")
    check_ports(chosen, rest_process.endpoint)


@contextlib.contextmanager
def running_server(
    repository: Path,
    *,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    http_address: str = "127.0.0.1",
    forwarded: tuple[str, ...] = (),
    tritonserver: str | None = None,
    ready_within: float | None = 60,
    on_line: Callable[[str], None] = lambda line: None,
) -> Iterator[Server]:
    """Serve a repository inside a `with` block, which begins when every model answers and ends with no process left.

    Where tritonserver loses a race of its own while models load, it is started a second time.

    Args:
        ready_within: seconds to wait for the models; None does not wait at all.

    Raises:
        ServerError: it cannot be started, or the models do not become ready.
    """
    options = ServeOptions(
        repository=repository,
        http_address=http_address,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        forwarded=forwarded,
    )
    server = Server.start(options, tritonserver=tritonserver, on_line=on_line)
    try:
        if ready_within is not None:
            try:
                server.wait_ready(ready_within)
            except ServerExitedError:
                if not server.lost_its_race:
                    raise
                server.stop()
                server = Server.start(options, tritonserver=tritonserver, on_line=on_line)
                server.wait_ready(ready_within)
        yield server
    finally:
        server.stop()


def reason(lines: list[str]) -> list[str]:
    """Pick the lines that say why a server ended: what was logged as an error, else simply the last ones."""
    return ([line for line in lines if _ERROR.match(line) and not _NO_GPU.search(line)] or lines)[-10:]


def _shared_memory(mark: str) -> list[str]:
    """Name the Python backend's shared memory after the server, so that it can be removed after a kill."""
    return [f"--backend-config=python,shm-region-prefix-name=trgen-{mark}"]
