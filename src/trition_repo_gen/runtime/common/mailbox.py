"""A queue between threads whose reader waits in a ZeroMQ poller."""

import contextlib
import os
import queue
from collections.abc import Iterator


class Mailbox[T]:
    """A queue whose reader can wait for it together with sockets and processes: register it with the poller."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._event = os.eventfd(0, os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Return the descriptor that is readable while there may be items."""
        return self._event

    def put(self, item: T) -> None:
        """Add an item. May be called on any thread."""
        self._items.put(item)
        os.eventfd_write(self._event, 1)

    def take_all(self) -> Iterator[T]:
        """Remove and yield the items in order, also those added meanwhile, without waiting."""
        # The event first: an item added after this sets it again, so that the poller sees it.
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        try:
            while True:
                yield self._items.get_nowait()
        except queue.Empty:
            return
        finally:
            if not self._items.empty():  # the caller has stopped early
                os.eventfd_write(self._event, 1)
