"""Asks a server whether its models are ready, and shows the progress of loading."""

import contextlib
import http.client
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO
from urllib.parse import quote

from trition_repo_gen.runtime.common import log_lines

from .command import Endpoint

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

_ANSWER_WITHIN = 2.0


def first_unready(endpoint: Endpoint, models: tuple[str, ...]) -> str | None:
    """Return the name of what is not ready yet, or None once the server and all models are ready.

    Asks `/v2/health/ready`, then `/v2/models/NAME/ready`
    (https://github.com/kserve/kserve, KServe's predict protocol version 2).
    """
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=_ANSWER_WITHIN)
    try:
        for model in models:
            if not _answers(connection, f"/v2/models/{quote(model, safe='')}/ready"):
                return f"model {model}"
        return None if _answers(connection, "/v2/health/ready") else "tritonserver"
    except (OSError, http.client.HTTPException):
        return f"model {models[0]}" if models else "tritonserver"
    finally:
        connection.close()


def stage(line: str) -> str | None:
    """Return `NAME: STAGE` if the log line reports the progress of a model, else None."""
    found = log_lines.parse(line)
    return f"{found[0]}: {found[1]}" if found else None


class LogView:
    """Shows the log on standard error, on a terminal with a status line about the progress of loading."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._lock = threading.Lock()
        self._console: Console | None = None
        self._status: Status | None = None

    def show(self, line: str) -> None:
        """Show a line of the log."""
        # Standard error may be closed; the server's log has to be read all the same.
        with self._lock, contextlib.suppress(OSError, ValueError):
            if self._status is None or self._console is None:
                print(line, file=self._stream, flush=True)
                return
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
            if text := stage(line):
                self._status.update(_plain(text))

    @contextlib.contextmanager
    def progress(self, text: str) -> Iterator[None]:
        """Show a status line on a terminal while the block runs: `text`, then the latest stage of loading."""
        if not self._stream.isatty():
            yield
            return
        from rich.console import Console

        console = Console(file=self._stream)
        with console.status(_plain(text)) as status:
            with self._lock:
                self._console, self._status = console, status
            try:
                yield
            finally:
                with self._lock:
                    self._console = self._status = None


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _answers(connection: http.client.HTTPConnection, path: str) -> bool:
    connection.request("GET", path)
    response = connection.getresponse()
    response.read()
    return response.status == http.client.OK
