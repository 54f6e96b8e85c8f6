"""Who may go to the ranks now, who waits, and who is turned away."""

import bisect
import threading
import time
from typing import Protocol

from ..common.wire import BUSY_MARK


class Request(Protocol):
    """What wants to go in."""

    slots: int
    """Rows."""
    priority: int
    """Lower goes first."""
    queue_deadline: float
    """When it does not want to wait any longer, on the monotonic clock; infinity for never."""

    def start(self) -> None:
        """It is in: `slots` are its own until `Admission.leave` gives them back."""

    def reject(self, sentence: str) -> None:
        """It will not go in."""


class Observer:
    """Is told what becomes of requests that do not go in at once, on any thread; this one does nothing with it."""

    def waiting(self, requests: int) -> None:
        """So many wait now."""

    def rejected(self, sequences: int) -> None:
        """A request with so many sequences will not go in."""

    def withdrawn(self, sequences: int) -> None:
        """A request with so many sequences does not want to go in any more."""


class Admission:
    """Lets requests in while there are slots: the more urgent first, those alike in order of arrival.

    None passes a more urgent one or an equal one that waits, though it may be small enough for the slots that are
    free. A request that is larger than all slots goes in alone.

    Triton's queue could do this if `execute` blocked while the ranks are full. But with a `max_queue_size` or a timeout
    in `dynamic_batching` Triton's batcher does not look ahead, and then it can miss a request that comes between two
    calls of `execute`: nothing wakes it before the next request or the end of half a second
    (triton-inference-server/core, dynamic_batch_scheduler.cc: `Enqueue` asks for a waiting consumer, `BatcherThread`
    waits for 500 ms). `bench/NOTES.md` has the numbers.

    Args:
        slots: sequences that the ranks run at once.
        max_waiting: requests that may wait; 0 is no limit.
        observer: counts.
    """

    def __init__(self, slots: int, max_waiting: int, observer: Observer | None = None):
        self._slots = slots
        self._max_waiting = max_waiting
        self._observer = observer or Observer()
        self._taken = 0
        self._waiting: list[Request] = []
        """By priority, then by arrival."""
        self._changed = threading.Condition()
        self._closed = False
        self._clock = threading.Thread(target=self._reject_expired, name="queue timeouts", daemon=True)
        self._clock.start()

    def enter(self, request: Request) -> None:
        """Start the request, keep it waiting, or turn it away."""
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
        """Give slots back; who waits for them goes in."""
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
        """Forget a request that does not want to go in any more; return whether it was waiting."""
        with self._changed:
            if request not in self._waiting:
                return False
            self._waiting.remove(request)
        self._observer.withdrawn(request.slots)
        self.leave(0)  # those behind it may fit
        return True

    def close(self) -> None:
        """Turn away everybody who waits."""
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
            self.leave(0)  # those behind them may fit
