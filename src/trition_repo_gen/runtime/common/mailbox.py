"""How threads hand things to one that waits in a ZeroMQ poller."""

import contextlib
import os
import queue
from collections.abc import Iterator


class Mailbox[T]:
    """A queue whose reader can wait for it together with sockets and processes: register it with the poller."""

    def __init__(self) -> None:
        self._things: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Return the descriptor that is readable while there may be something to take."""
        return self._bell

    def put(self, thing: T) -> None:
        """Leave something, from any thread."""
        self._things.put(thing)
        os.eventfd_write(self._bell, 1)

    def take_all(self) -> Iterator[T]:
        """Yield what lies here, in order, also what comes meanwhile; never wait."""
        # The bell first: what comes later rings again, so that nothing is left lying.
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        try:
            while True:
                yield self._things.get_nowait()
        except queue.Empty:
            return
        finally:
            if not self._things.empty():  # whoever took has given up amid it
                os.eventfd_write(self._bell, 1)
