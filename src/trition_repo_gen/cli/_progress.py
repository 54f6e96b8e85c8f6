"""Shows on a terminal what takes longer than two seconds."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TextIO

Report = Callable[[str], None]
"""Takes what is being done, in words."""

_SECONDS = 2.0


@contextmanager
def progress(stream: TextIO | None = None, seconds: float = _SECONDS) -> Iterator[Report]:
    """While the block runs for longer than `seconds`, keep a line on a terminal that says what is being done.

    Rich is imported only then. What is not a terminal is left alone.
    """
    stream = stream or sys.stderr
    if not stream.isatty():
        yield lambda text: None
        return
    latest = ["working"]
    with ExitStack() as shown:
        lock = threading.Lock()
        status = None

        def show() -> None:
            nonlocal status
            from rich.console import Console

            with lock:
                if not ended:
                    status = shown.enter_context(Console(file=stream).status(latest[0]))

        def report(text: str) -> None:
            with lock:
                latest[0] = text
                if status is not None:
                    status.update(text)

        ended = False
        timer = threading.Timer(seconds, show)
        timer.daemon = True
        timer.start()
        try:
            yield report
        finally:
            timer.cancel()
            with lock:
                ended = True
