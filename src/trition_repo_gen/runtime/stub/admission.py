"""Admits requests to the ranks while there are slots; queues or rejects the others."""

import bisect
import threading
import time
from typing import Protocol

from ..common.wire import BUSY_MARK


class Request(Protocol):
    """A request that asks for admission."""

    slots: int
    """Slots that it occupies, one for each sequence."""
    priority: int
    """1 is the highest."""
    queue_deadline: float
    """Time on the monotonic clock until which it may wait for slots; infinity for no limit."""

    def start(self) -> None:
        """Run the request. Its slots are occupied until `Admission.leave` frees them."""

    def reject(self, sentence: str) -> None:
        """Refuse the request for the reason given."""


class Observer:
    """Receives events of requests that are not admitted at once, on any thread; this class ignores them."""

    def waiting(self, requests: int) -> None:
        """Receive the number of requests that wait now."""

    def rejected(self, sequences: int) -> None:
        """Receive the number of sequences of a request that is rejected."""

    def withdrawn(self, sequences: int) -> None:
        """Receive the number of sequences of a request that is withdrawn while it waits."""


class Admission:
    """Admits requests while there are slots, by priority and then in order of arrival.

    A request never overtakes a waiting one of the same or a higher priority, even if only the later one fits into the
    free slots. A request that needs more slots than there are is admitted alone.

    Triton's own queue would need an `execute` that blocks while the ranks are full. But with a `max_queue_size` or a
    timeout in `dynamic_batching`, Triton's batcher can miss a request that arrives between two calls of `execute`, and
    leaves it until the next request arrives or 500 ms have passed (triton-inference-server/core,
    dynamic_batch_scheduler.cc: `Enqueue` only wakes a waiting consumer, `BatcherThread` waits for 500 ms).
    `bench/NOTES.md` has the numbers.

    Args:
        slots: the number of sequences that the ranks run at once.
        max_waiting: the number of requests that may wait; 0 is no limit.
        observer: receives what is to be counted.
    """

    def __init__(self, slots: int, max_waiting: int, observer: Observer | None = None):
        self._slots = slots
        self._max_waiting = max_waiting
        self._observer = observer or Observer()
        self._taken = 0
        self._waiting: list[Request] = []
        """Sorted by priority, then by arrival."""
        self._changed = threading.Condition()
        self._closed = False
        self._clock = threading.Thread(target=self._reject_expired, name="queue timeouts", daemon=True)
        self._clock.start()

    def enter(self, request: Request) -> None:
        """Start the request, let it wait, or reject it."""
        with self._changed:
            first = not self._waiting or request.priority < self._waiting[0].priority
            if first and self._fits(request):
                self._taken += request.slots
                full = False
            else:
                full = self._closed or 0 < self._max_waiting <= len(self._waiting)
                if not full:
                    bisect.insort(self._waiting, request, key=lambda waiting: waiting.priority)
                    self._observer.waiting(len(self._waiting))
                    self._changed.notify()
                    return
        if full:
            self._reject(
                request,
                f"The server is full and {self._max_waiting} requests wait already; try again later. {BUSY_MARK}",
            )
        else:
            request.start()

    def leave(self, slots: int) -> None:
        """Free slots, and start waiting requests that fit into them."""
        admitted = []
        with self._changed:
            self._taken -= slots
            while self._waiting and self._fits(self._waiting[0]):
                request = self._waiting.pop(0)
                self._taken += request.slots
                admitted.append(request)
            self._observer.waiting(len(self._waiting))
        for request in admitted:
            request.start()

    def withdraw(self, request: Request) -> bool:
        """Remove a request from the queue; return whether it was waiting."""
        with self._changed:
            if request not in self._waiting:
                return False
            self._waiting.remove(request)
        self._observer.withdrawn(request.slots)
        self.leave(0)  # the requests behind it may fit
        return True

    def close(self) -> None:
        """Reject all waiting requests."""
        with self._changed:
            self._closed = True
            waiting = list(self._waiting)
            self._waiting.clear()
            self._changed.notify()
        for request in waiting:
            self._reject(request, "The server is stopping.")
        self._clock.join()

    def _fits(self, request: Request) -> bool:
        return self._taken == 0 or self._taken + request.slots <= self._slots

    def _reject(self, request: Request, sentence: str) -> None:
        self._observer.rejected(request.slots)
        request.reject(sentence)

    def _reject_expired(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                now = time.monotonic()
                late = [request for request in self._waiting if request.queue_deadline <= now]
                if not late:
                    soonest = min((request.queue_deadline for request in self._waiting), default=float("inf"))
                    self._changed.wait(min(soonest - now, threading.TIMEOUT_MAX))
                    continue
                for request in late:
                    self._waiting.remove(request)
                self._observer.waiting(len(self._waiting))
            for request in late:
                self._reject(
                    request,
                    f"The server was full for as long as the request could wait; try again later. {BUSY_MARK}",
                )
            self.leave(0)  # the requests behind them may fit
