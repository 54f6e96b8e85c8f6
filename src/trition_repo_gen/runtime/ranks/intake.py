"""The leader's inbox: requests arrive and become tokens on a thread of their own, while steps run."""

import threading

import zmq

from ..mailbox import Mailbox
from ..protocol import Cancel, Generate, Ready, decode, encode
from .text import Prompt, PromptError, TextCodec
from .uplink import Uplink

Arrival = tuple[Generate, Prompt | PromptError] | Cancel


class Intake:
    """Collects what has come for the group since the last step.

    Args:
        uplink: tells where the stub is.
        codec: makes prompts into tokens.
        ready: what the stub learns first; it sends requests from then on.
    """

    def __init__(self, uplink: Uplink, codec: TextCodec, ready: Ready):
        self._codec = codec
        self._arrivals: Mailbox[Arrival] = Mailbox()
        self._poller = zmq.Poller()
        self._poller.register(self._arrivals, zmq.POLLIN)
        inbox = uplink.open_inbox()
        inbox.send(encode(ready))
        threading.Thread(target=self._receive_forever, args=(inbox,), name="intake", daemon=True).start()

    def also_wake_for(self, socket: "zmq.Socket[bytes]") -> None:
        """Let `collect` return when something comes on `socket`, too."""
        self._poller.register(socket, zmq.POLLIN)

    def collect(self, *, wait: bool) -> list[Arrival]:
        """Return requests with their tokens, and cancellations, in order of arrival.

        Args:
            wait: return only when there is something to look at.
        """
        if wait:
            self._poller.poll()
        return list(self._arrivals.take_all())

    def _receive_forever(self, inbox: "zmq.Socket[bytes]") -> None:
        while True:
            message = decode(inbox.recv())
            self._arrivals.put((message, self._encode(message)) if isinstance(message, Generate) else message)

    def _encode(self, request: Generate) -> Prompt | PromptError:
        try:
            return self._codec.encode(request.row)
        except PromptError as error:
            return error
