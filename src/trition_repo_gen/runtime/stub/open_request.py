"""How a request ends: once, by whichever thread comes first, be it answered, refused, cancelled or too late."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import partial
from typing import Any

import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from .request_watcher import RequestWatcher
from .send_queue import SendQueue
from .triton import send_error


class EndsOnce:
    """Something that several threads may end. `_lock` guards `_ended` and whatever must not change after it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = False

    def _end(self) -> bool:
        """End it; return whether it had not ended before."""
        with self._lock:
            ended, self._ended = self._ended, True
        return not ended


class OpenRequest(EndsOnce, ABC):
    """A request whose last response Triton still waits for: a `request_watcher.Watched`.

    Args:
        sender: Triton's response sender.
        timeout: seconds until it ends in any case; infinity for never.
        watcher: looks whether the client is still there. Who inherits adds the request to it.
        send queue: sends the responses.
    """

    def __init__(self, sender: Any, timeout: float, watcher: RequestWatcher, send_queue: SendQueue):
        super().__init__()
        self.deadline = time.monotonic() + timeout
        self._sender = sender
        self._watcher = watcher
        self._send_queue = send_queue

    def is_cancelled(self) -> bool:
        """Whether the client has gone or has cancelled the request."""
        with self._lock:  # not while or after the last response is sent: tritonserver 2.51 would crash
            return not self._ended and bool(self._sender.is_cancelled())

    def cancel(self) -> None:
        """End the request: nobody waits for it."""
        self._abort("CANCELLED", "The client has cancelled the request.")

    def expire(self) -> None:
        """End the request: its own timeout is over."""
        self._abort("UNAVAILABLE", "The request took longer than its timeout.")

    @abstractmethod
    def _release(self, sentence: str) -> None:
        """Give back what the request holds; it has ended for the reason that `sentence` tells."""

    def _abort(self, kind: str, sentence: str) -> None:
        """Fail the request, if it has not ended."""
        if self._end():
            self._release(sentence)
            self._fail(kind, sentence)

    def _fail(self, kind: str, sentence: str) -> None:
        """Send an error as the last response. To be called by whom `_end` told that the request had not ended."""
        self._send_queue.put(partial(send_error, self._sender, kind, sentence))

    def _end(self) -> bool:
        first = super()._end()
        self._watcher.remove(self)
        return first

    def _send_last(self, outputs: Iterable[tuple[str, NDArray[Any]]]) -> None:
        """Send the last response, on the request's send queue, once the request has ended with an answer."""
        tensors = [pb_utils.Tensor(name, array) for name, array in outputs]
        self._sender.send(pb_utils.InferenceResponse(tensors), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
