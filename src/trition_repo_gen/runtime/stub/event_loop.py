"""One thread that waits for sockets, process ends, timers and other threads' actions, and runs their callbacks."""

import heapq
import itertools
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import zmq

from ..common.mailbox import Mailbox
from ..common.sockets import Socket

Callback = Callable[[], object]


@dataclass(eq=False, slots=True)
class Timer:
    """A callback that runs once, at a time on the monotonic clock, unless it is cancelled before."""

    callback: Callback
    cancelled: bool = False

    def cancel(self) -> None:
        """Do not run the callback. Call this on the loop's thread."""
        self.cancelled = True


class EventLoop:
    """A thread that runs callbacks, one at a time.

    A turn of the loop waits until something happens, then runs, in this order: the callbacks of readable sockets and
    descriptors, the actions of `run_soon` (also those that are added meanwhile), the timers that are due, and the
    callbacks of `at_turn_end`. A callback that raises ends its turn; what that has left over runs in the next one.

    Args:
        name: the thread's name.
        on_error: called on the loop's thread with an exception that a callback has raised. The loop goes on after it.
        on_stop: called on the loop's thread as the last thing it does.
    """

    def __init__(self, name: str, *, on_error: Callable[[Exception], None], on_stop: Callback = lambda: None):
        self._on_error = on_error
        self._on_stop = on_stop
        self._actions: Mailbox[Callback] = Mailbox()
        self._poller = zmq.Poller()
        self._poller.register(self._actions, zmq.POLLIN)
        self._callbacks: dict[Socket | int, Callback] = {}
        self._turn_end: list[Callback] = []
        self._timers: list[tuple[float, int, Timer]] = []
        """A heap; the number in the middle keeps timers of the same time in order."""
        self._timer_numbers = itertools.count()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    # Called on any thread.

    def start(self) -> None:
        """Start the thread. Actions added before this run first."""
        self._thread.start()

    def run_soon(self, action: Callback) -> None:
        """Run `action` on the loop's thread, after the actions that were added before."""
        self._actions.put(action)

    def stop(self) -> None:
        """Run the actions added before this, then end the thread, and wait for its end."""
        self.run_soon(self._stop)
        self._thread.join()

    # Called on the loop's thread.

    def watch(self, source: Socket | int, callback: Callback) -> None:
        """Run `callback` in each turn in which `source` is readable.

        Args:
            source: a ZeroMQ socket, or a file descriptor; a process file descriptor is readable once its process ends.
            callback: reads what has come, or calls `unwatch`; otherwise it is called again at once.
        """
        self._callbacks[source] = callback
        self._poller.register(source, zmq.POLLIN)

    def unwatch(self, source: Socket | int) -> None:
        """Forget a socket or a descriptor. It is not closed."""
        self._poller.unregister(source)
        del self._callbacks[source]

    def at_turn_end(self, callback: Callback) -> None:
        """Run `callback` once, after all events of this turn, such as to send together what they have led to."""
        self._turn_end.append(callback)

    def call_at(self, when: float, callback: Callback) -> Timer:
        """Run `callback` once, when the monotonic clock shows `when`."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (when, next(self._timer_numbers), timer))
        return timer

    def _run(self) -> None:
        try:
            while not self._stopping:
                try:
                    self._turn()
                except Exception as error:
                    self._on_error(error)
        finally:
            self._on_stop()

    def _turn(self) -> None:
        events = self._poller.poll(self._milliseconds_left())
        # The callbacks of now: one of them may replace a descriptor by another with the same number.
        ready = [(source, self._callbacks.get(source)) for source, _ in events]
        for source, callback in ready:
            if callback is not None and self._callbacks.get(source) is callback:
                callback()
        for action in self._actions.take_all():
            action()
            if self._stopping:
                return
        self._run_timers()
        while self._turn_end:
            self._turn_end.pop(0)()

    def _milliseconds_left(self) -> int | None:
        """Return how long the loop may wait, None for ever."""
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        if self._turn_end:  # a callback that raised has left them
            return 0
        if not self._timers:
            return None
        return max(0, math.ceil((self._timers[0][0] - time.monotonic()) * 1000))

    def _run_timers(self) -> None:
        if not self._timers:
            return
        now, last = time.monotonic(), next(self._timer_numbers)  # a timer that one of them adds waits for the next turn
        while self._timers and self._timers[0][0] <= now and self._timers[0][1] < last:
            _, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                timer.callback()

    def _stop(self) -> None:
        self._stopping = True
