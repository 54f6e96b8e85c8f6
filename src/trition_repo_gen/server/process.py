"""A running tritonserver: starts it, reads its log, waits for its models, and ends it with all its processes."""

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

from .command import ServeOptions, ServerPlan, check_ports, models_to_wait_for, plan
from .descendants import MARK, end_marked, marked_processes, name_of, wait_for
from .find import find_tritonserver
from .prepare import prepare
from .rest_process import RestProcess
from .watch import first_unready

POLL_INTERVAL = 0.1
"""Seconds between two checks whether the models are ready."""

_SLACK = 3
"""Seconds after its exit timeout until a tritonserver that does not end is killed."""

_KEPT_LINES = 200
_ERROR = re.compile(rf"error:|{re.escape(log_lines.MARK)}|E\d{{4}} |Signal \(\d+\) received")
_LOST_RACE = "boost::interprocess::lock_exception"
_NO_GPU = re.compile("CudaDriverHelper has not been initialized")  # logged as an error on machines without a GPU
_RANK = re.compile(r"rank (\d+)")  # the process name of a rank
_PARENT_DEATH = Path(__file__).with_name("parent_death.py")


class ServerExitedError(ServerError):
    """tritonserver exited before its models were ready."""


class Server:
    """A tritonserver that this process has started and that ends with it.

    Start one with `Server.start`, or with `running_server`, which also ends it. Call `start` on the main thread: the
    kernel ends tritonserver when the thread that started it ends.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        chosen: ServerPlan,
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
            options: the options of the server.
            tritonserver: the path of the program; by default `find_tritonserver` finds it.
            on_line: called on another thread with every line of the log, without its line end.

        Raises:
            ServerError: nothing was started, because there is no tritonserver or no model, a port is in use, or the
                stub cannot run.
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
            # A new session: a terminal's Ctrl-C reaches only this process, which then ends tritonserver in order.
            start_new_session=True,
        )
        return cls(process, chosen, models, mark, on_line)

    @property
    def pid(self) -> int:
        """The process id of tritonserver."""
        return self._process.pid

    @property
    def mark(self) -> str:
        """The mark in the environment of all its processes; see `descendants`."""
        return self._mark

    def ranks(self) -> dict[int, int]:
        """Return the process ids of the ranks, by rank."""
        found: dict[int, int] = {}
        for pid in sorted(marked_processes(self._mark)):
            if match := _RANK.fullmatch(name_of(pid)):
                found.setdefault(int(match[1]), pid)  # processes that a rank forks have the same name
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
        """Return tritonserver's exit code, 128 + N if signal N ended it, None while it runs."""
        code = self._process.poll()
        return 128 - code if code is not None and code < 0 else code

    def wait(self, seconds: float | None = None, wake: Collection[int] = ()) -> int | None:
        """Wait until tritonserver has exited; return its exit code, or None if it still runs.

        Args:
            seconds: the longest time to wait; None for no limit.
            wake: file descriptors; the wait ends when one of them is readable.
        """
        wait_for([self._ended, *wake], seconds)
        return self.exit_code()

    def wait_ready(self, seconds: float | None = None, wake: Collection[int] = ()) -> bool:
        """Wait until all models are ready; return False if one of `wake` becomes readable before.

        Raises:
            ServerExitedError: tritonserver has exited; the message ends with the reason from its log.
            ServerError: the models were not ready in time.
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
        """Whether tritonserver aborted in its race between Python models that begin to load at the same time."""
        return any(_LOST_RACE in line for line in self.log())

    def reason(self) -> str:
        """Return the last lines of the log that explain a failure."""
        return "\n".join(reason(self.log()))

    def send_signal(self, number: int) -> None:
        """Send a signal to tritonserver, not to its children."""
        self._process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End tritonserver and all its descendants; return its exit code as `exit_code` does.

        At SIGTERM and SIGINT, a server that serves finishes its running requests; one that loads ends at once. It is
        killed a few seconds after its exit timeout. A second call does nothing.

        Args:
            number: the signal to send.

        Raises:
            ServerError: a process still runs although it was killed.
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
        # The stubs and the ranks write to the same pipe: it ends with the last of them.
        with stream:
            for raw in stream:
                line = raw.decode(errors="replace").rstrip("\r\n")
                self._log.append(line)
                self._on_line(line)

    def _remove_shared_memory(self) -> None:
        # A stub removes its region itself unless it is killed.
        for region in Path("/dev/shm").glob(f"trgen-{self._mark}*"):
            with contextlib.suppress(OSError):
                region.unlink()


def check(options: ServeOptions, *, tritonserver: str | None = None, rest_process: RestProcess | None = None) -> None:
    """Check that a server can start, apart from its repository; start nothing.

    Raises:
        ServerError: there is no tritonserver, its stub cannot run, a port is in use, or the REST process could not
            connect to it.
    """
    chosen = plan(options)
    check_rest_process(chosen, rest_process)
    check_ports(chosen)
    prepare(find_tritonserver(tritonserver))


def check_rest_process(chosen: ServerPlan, rest_process: RestProcess | None) -> None:
    """Check that a REST process can serve next to tritonserver.

    Raises:
        ServerError: its port is in use or is also the server's, or gRPC is turned off.
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
    """Serve a repository inside a `with` block: it begins when all models are ready, and at its end no process is left.

    tritonserver is started a second time if it aborts in its race between models that load at the same time.

    Args:
        ready_within: seconds to wait for the models; None does not wait.

    Raises:
        ServerError: tritonserver cannot be started, or the models are not ready in time.
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
    """Return the lines that explain the end of a server: the last errors, or the last lines if there is no error."""
    return ([line for line in lines if _ERROR.match(line) and not _NO_GPU.search(line)] or lines)[-10:]


def _shared_memory(mark: str) -> list[str]:
    """Return the option that names the backend's shared memory after the server, which removes it after a kill."""
    return [f"--backend-config=python,shm-region-prefix-name=trgen-{mark}"]
