"""Cancels running requests whose clients have disconnected, and fails those whose timeout has expired."""

import threading
import time
from typing import Protocol

_LEAST_INTERVAL = 0.05
_SECONDS_A_REQUEST = 0.002
"""A check of one request takes a twentieth of this, here and in tritonserver: at most 5 % of a core in each."""


class Watched(Protocol):
    """A running request."""

    deadline: float
    """When its timeout expires, on the monotonic clock; infinity for never."""

    def is_cancelled(self) -> bool:
        """Return whether the client has disconnected or has cancelled the request."""

    def cancel(self) -> None:
        """End the request, which its client has cancelled."""

    def expire(self) -> None:
        """End the request, whose timeout has expired."""


class RequestWatcher:
    """A thread that checks all running requests: every 50 ms for up to 25, once a second for 500."""

    def __init__(self) -> None:
        self._requests: set[Watched] = set()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._thread.start()

    def add(self, request: Watched) -> None:
        """Check this request from now on."""
        with self._changed:
            if not self._requests:
                self._changed.notify()
            self._requests.add(request)

    def remove(self, request: Watched) -> None:
        """Stop checking a request, which has ended."""
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
