"""Threads that send responses to Triton.

`send` of Triton's Python backend blocks until tritonserver has received the response: 0.1 ms to several. On the ranks'
thread it would delay new sequences by as much.
"""

import itertools
import queue
import threading
import traceback
from collections.abc import Callable

_QUEUES = 4


class SendQueue:
    """A thread that runs actions in order."""

    def __init__(self, name: str):
        self._actions: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, action: Callable[[], object]) -> None:
        """Run `action`, after all that were put before."""
        self._actions.put(action)

    def close(self) -> None:
        """Run the remaining actions, then end the thread."""
        self._actions.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (action := self._actions.get()) is not None:
            try:
                action()
            except Exception:  # it concerns one response; the next one is of another request
                traceback.print_exc()


class SendQueues:
    """Several send queues. Responses of one request go through one of them, and so stay in order."""

    def __init__(self) -> None:
        self._queues = [SendQueue(f"send queue {number}") for number in range(_QUEUES)]
        self._next = itertools.cycle(self._queues)

    def send_queue(self) -> SendQueue:
        """Return the send queue for the next request."""
        return next(self._next)

    def close(self) -> None:
        """Send the remaining responses, then end the threads."""
        for send_queue in self._queues:
            send_queue.close()
