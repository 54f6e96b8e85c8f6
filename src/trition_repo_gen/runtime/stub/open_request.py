"""Requests that end exactly once: answered, refused, cancelled or timed out, on whichever thread is first."""

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
    """Base of objects that several threads may end. `_lock` guards `_ended`, and all that must not happen after it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = False

    def _end(self) -> bool:
        """Mark this as ended; return whether this call was the first."""
        with self._lock:
            ended, self._ended = self._ended, True
        return not ended


class OpenRequest(EndsOnce, ABC):
    """A request whose final response has not been sent: a `request_watcher.Watched`.

    Args:
        sender: Triton's response sender.
        timeout: seconds after which the request fails; infinity for no limit.
        watcher: checks whether the client is still connected. Subclasses add the request to it.
        send_queue: sends the responses.
    """

    def __init__(self, sender: Any, timeout: float, watcher: RequestWatcher, send_queue: SendQueue):
        super().__init__()
        self.deadline = time.monotonic() + timeout
        self._sender = sender
        self._watcher = watcher
        self._send_queue = send_queue

    def is_cancelled(self) -> bool:
        """Return whether the client has disconnected or has cancelled the request."""
        with self._lock:  # during or after the final response the call crashes tritonserver 2.51
            return not self._ended and bool(self._sender.is_cancelled())

    def cancel(self) -> None:
        """Fail the request, which its client has cancelled."""
        self._abort("CANCELLED", "The client has cancelled the request.")

    def expire(self) -> None:
        """Fail the request, whose timeout has expired."""
        self._abort("UNAVAILABLE", "The request took longer than its timeout.")

    @abstractmethod
    def _release(self, sentence: str) -> None:
        """Free what the request occupies; it has failed with this sentence."""

    def _abort(self, kind: str, sentence: str) -> None:
        """Fail the request, unless it has ended."""
        if self._end():
            self._release(sentence)
            self._fail(kind, sentence)

    def _fail(self, kind: str, sentence: str) -> None:
        """Send an error as the final response. To be called only after `_end` has returned True."""
        self._send_queue.put(partial(send_error, self._sender, kind, sentence))

    def _end(self) -> bool:
        first = super()._end()
        self._watcher.remove(self)
        return first

    def _send_last(self, outputs: Iterable[tuple[str, NDArray[Any]]]) -> None:
        """Send the final response of a request that has ended with an answer. To be called on its send queue."""
        tensors = [pb_utils.Tensor(name, array) for name, array in outputs]
        self._sender.send(pb_utils.InferenceResponse(tensors), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
