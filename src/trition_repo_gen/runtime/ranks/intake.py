"""The leader's inbox: requests from the stub become tokens on a thread of their own, so that no step waits for them."""

import contextlib
import os
import queue
import threading

import zmq

from ..protocol import Cancel, Generate
from .text import Prompt, PromptError, TextCodec
from .uplink import Uplink


class Intake:
    """Collects what has come for the group since the last step."""

    def __init__(self, uplink: Uplink, codec: TextCodec):
        self._uplink = uplink
        self._codec = codec
        self._raw: queue.SimpleQueue[Generate] = queue.SimpleQueue()
        self._encoded: queue.SimpleQueue[tuple[Generate, Prompt | PromptError]] = queue.SimpleQueue()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK)
        self._poller = zmq.Poller()
        self._poller.register(self._bell, zmq.POLLIN)
        self._poller.register(uplink.socket, zmq.POLLIN)
        threading.Thread(target=self._encode_forever, name="tokenizer", daemon=True).start()

    def also_wake_for(self, socket: "zmq.Socket[bytes]") -> None:
        """Let `collect` return when something comes on `socket`, too."""
        self._poller.register(socket, zmq.POLLIN)

    def collect(self, *, wait: bool) -> tuple[list[tuple[Generate, Prompt | PromptError]], list[int]]:
        """Return requests with their tokens, in order of arrival, and ids of cancelled ones.

        Args:
            wait: return only when there is something to look at.
        """
        cancelled: list[int] = []
        if wait:
            self._poller.poll()
        for message in self._uplink.receive():
            if isinstance(message, Generate):
                self._raw.put(message)
            elif isinstance(message, Cancel):
                cancelled.append(message.id)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        encoded = []
        with contextlib.suppress(queue.Empty):
            while True:
                encoded.append(self._encoded.get_nowait())
        return encoded, cancelled

    def _encode_forever(self) -> None:
        while True:
            request = self._raw.get()
            try:
                outcome: Prompt | PromptError = self._codec.encode(request.row)
            except PromptError as error:
                outcome = error
            self._encoded.put((request, outcome))
            os.eventfd_write(self._bell, 1)
