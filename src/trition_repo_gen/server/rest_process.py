"""The process of the REST service, which runs next to tritonserver, talks gRPC to it, and ends with it."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .command import Endpoint
from .descendants import MARK

_PARENT_DEATH = Path(__file__).with_name("parent_death.py")
_LEAST_SECONDS = 10.0
"""A process that ends within so many seconds is not started again: it would end again."""


@dataclass(frozen=True, kw_only=True)
class RestProcess:
    """How to start the REST process."""

    name: str
    """Its name in the log: "REST service"."""
    command: tuple[str, ...]
    """Program and arguments; `--triton=HOST:PORT` is added."""
    endpoint: Endpoint
    """What it binds."""
    ready_line: str
    """The beginning of the line that it writes to standard output when it takes requests."""


class RunningRestProcess:
    """A running REST process. It has the mark of its server and ends with it.

    Create it on the main thread: the kernel ends the process when the thread that started it ends.

    Args:
        rest_process: how to start it.
        grpc_url: HOST:PORT of tritonserver.
        mark: the server's mark; see `descendants`.
        on_line: called from a thread with every line that it writes.
    """

    def __init__(self, rest_process: RestProcess, grpc_url: str, mark: str, on_line: Callable[[str], None]) -> None:
        self._rest_process = rest_process
        self._command = [*rest_process.command, f"--triton={grpc_url}"]
        self._mark = mark
        self._on_line = on_line
        self._announced = os.eventfd(0, os.EFD_NONBLOCK)
        self.announcement: str | None = None
        """The line that it wrote when it took requests, None before."""
        self._start()

    @property
    def ended(self) -> int | None:
        """A file descriptor that is readable once the process has ended; None if it is not started again."""
        return self._ended

    @property
    def announced(self) -> int:
        """A file descriptor that is readable once it takes requests."""
        return self._announced

    def handle_end(self) -> str:
        """Start the process, which has ended, again unless it ended early; return a sentence for the log."""
        code = self._process.wait()
        self._reader.join()
        self._close_handle()
        what = f"The {self._rest_process.name} has ended with code {128 - code if code < 0 else code}"
        if time.monotonic() - self._started < _LEAST_SECONDS:
            return f"{what}, right after its start: it is not started again. tritonserver serves on without it."
        self._start()
        return f"{what} and is started again."

    def terminate(self) -> None:
        """Make it finish its running requests and end; `Server.stop` waits for that."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Kill it if it still runs, and free its resources."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        self._reader.join()
        self._close_handle()
        os.close(self._announced)

    def _start(self) -> None:
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_PARENT_DEATH), str(os.getpid()), *self._command],
            env=os.environ | {MARK: self._mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # as for tritonserver: a terminal's Ctrl-C reaches only this process
        )
        self._ended: int | None = os.pidfd_open(self._process.pid)
        assert self._process.stdout is not None
        self._reader = threading.Thread(
            target=self._follow, args=(self._process.stdout,), name=self._rest_process.name, daemon=True
        )
        self._reader.start()

    def _follow(self, stream: IO[bytes]) -> None:
        with stream:
            for raw in stream:
                line = raw.decode(errors="replace").rstrip("\r\n")
                if self.announcement is None and line.startswith(self._rest_process.ready_line):
                    self.announcement = line
                    os.eventfd_write(self._announced, 1)
                self._on_line(line)

    def _close_handle(self) -> None:
        if self._ended is not None:
            os.close(self._ended)
            self._ended = None
