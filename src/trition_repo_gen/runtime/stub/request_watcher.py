"""Looks after requests that are under way: who waits no longer, and whose time is up."""

import threading
import time
from typing import Protocol

_LEAST_INTERVAL = 0.05
_SECONDS_A_REQUEST = 0.002
"""Asking Triton about a request takes a twentieth of this here and in tritonserver: so a tenth of a core at most."""


class Watched(Protocol):
    """A request under way."""

    deadline: float
    """When its time is up, on the monotonic clock; infinity for never."""

    def is_cancelled(self) -> bool:
        """Whether the client has gone or has cancelled it."""

    def cancel(self) -> None:
        """End it: nobody waits for it."""

    def expire(self) -> None:
        """End it: its time is up."""


class RequestWatcher:
    """A thread that looks at every request, often while there are few and at least once a second up to five hundred."""

    def __init__(self) -> None:
        self._requests: set[Watched] = set()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._thread.start()

    def add(self, request: Watched) -> None:
        """Look after a request."""
        with self._changed:
            if not self._requests:
                self._changed.notify()
            self._requests.add(request)

    def remove(self, request: Watched) -> None:
        """Forget a request that has ended."""
        with self._changed:
            self._requests.discard(request)

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._requests)
                if not self._closed:
                    interval = max(_LEAST_INTERVAL, len(self._requests) * _SECONDS_A_REQUEST)
                    self._changed.wait_for(lambda: self._closed, interval)
                if self._closed:
                    return
                requests = list(self._requests)
            now = time.monotonic()
            for request in requests:
                if request.deadline <= now:
                    request.expire()
                elif request.is_cancelled():
                    request.cancel()
