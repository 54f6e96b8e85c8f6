"""A program that runs beside tritonserver, asks it over gRPC, and ends with it."""

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
_STARTED_WELL = 10.0
"""Seconds: one that ends earlier would do so again."""


@dataclass(frozen=True, kw_only=True)
class RestProcess:
    """What to run, and what it will bind."""

    name: str
    """In words, for the log: "REST service"."""
    command: tuple[str, ...]
    """`--triton=HOST:PORT` is added to it."""
    endpoint: Endpoint
    ready_line: str
    """How the line begins that it writes to standard output when it takes requests."""


class RunningRestProcess:
    """A REST process's process. It is one of its server's: it has the server's mark, and the server's end is its own.

    Start one from the main thread: it is told to end when the thread that started it does.

    Args:
        REST process: what to run.
        grpc_url: HOST:PORT of tritonserver.
        mark: the server's; see `descendants`.
        on_line: called from a thread with every line that it writes.
    """

    def __init__(self, rest_process: RestProcess, grpc_url: str, mark: str, on_line: Callable[[str], None]) -> None:
        self._rest_process = rest_process
        self._command = [*rest_process.command, f"--triton={grpc_url}"]
        self._mark = mark
        self._on_line = on_line
        self._announced = os.eventfd(0, os.EFD_NONBLOCK)
        self.announcement: str | None = None
        """The line with which it said that it takes requests."""
        self._start()

    @property
    def ended(self) -> int | None:
        """A file descriptor that is readable when the process has ended; None when it is not to be looked after."""
        return self._ended

    @property
    def announced(self) -> int:
        """A file descriptor that is readable when it takes requests."""
        return self._announced

    def look_after(self) -> str:
        """After its end: start it again unless it lived for a moment only; return a sentence for the log."""
        code = self._process.wait()
        self._reader.join()
        self._close_handle()
        what = f"The {self._rest_process.name} has ended with code {128 - code if code < 0 else code}"
        if time.monotonic() - self._started < _STARTED_WELL:
            return f"{what}, right after its start: it is not started again. tritonserver serves on without it."
        self._start()
        return f"{what} and is started again."

    def terminate(self) -> None:
        """Tell it to answer what is under way and end; `Server.stop` waits for it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Forget it; it has ended, or ends now."""
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
            start_new_session=True,  # as tritonserver: a terminal's Ctrl-C reaches us alone
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
