"""Threads that hand responses to Triton.

`send` of Triton's Python backend waits until tritonserver has taken the response, a tenth of a millisecond or several.
Whoever sent them one after another would keep new requests from the ranks for as long.
"""

import itertools
import queue
import threading
import traceback
from collections.abc import Callable

_QUEUES = 4


class SendQueue:
    """A thread that does one thing after another."""

    def __init__(self, name: str):
        self._actions: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, action: Callable[[], object]) -> None:
        """Have it done, after what was put before."""
        self._actions.put(action)

    def close(self) -> None:
        """Do what was put, then end."""
        self._actions.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (action := self._actions.get()) is not None:
            try:
                action()
            except Exception:  # of one response; the others' requests still wait for theirs
                traceback.print_exc()


class SendQueues:
    """A few lanes, side by side. What belongs to one request goes through one send queue and so stays in order."""

    def __init__(self) -> None:
        self._queues = [SendQueue(f"outbox {number}") for number in range(_QUEUES)]
        self._next = itertools.cycle(self._queues)

    def send_queue(self) -> SendQueue:
        """Return the send queue for another request."""
        return next(self._next)

    def close(self) -> None:
        """Send what is left, then end."""
        for send_queue in self._queues:
            send_queue.close()
