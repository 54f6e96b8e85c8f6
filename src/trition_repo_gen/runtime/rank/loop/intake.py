"""The leader's inbox: receive and encode requests on a thread of its own while steps run."""

import threading
from concurrent.futures import ThreadPoolExecutor

import zmq

from ...common.mailbox import Mailbox
from ...common.protocol import Cancel, Generate, Ready, decode, encode
from ...common.sockets import Socket
from ..engines.text import Prompt, PromptError, TextCodec
from .connection import RankConnection

Arrival = tuple[Generate, Prompt | PromptError] | Cancel

_FETCHERS = 8


class Intake:
    """Collects the group's requests that arrived since the last step.

    Args:
        connection: to the stub.
        codec: encodes prompts.
        ready: the first message to the stub, which sends requests from then on.
    """

    def __init__(self, connection: RankConnection, codec: TextCodec, ready: Ready):
        self._codec = codec
        self._arrivals: Mailbox[Arrival] = Mailbox()
        self._poller = zmq.Poller()
        self._poller.register(self._arrivals, zmq.POLLIN)
        self._fetchers = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="fetch")
        self._fetching: set[int] = set()
        """Sequences that wait for images from another host. The thread that removes one answers it or drops it."""
        self._lock = threading.Lock()
        inbox = connection.open_inbox()
        inbox.send(encode(ready))
        threading.Thread(target=self._receive_forever, args=(inbox,), name="intake", daemon=True).start()

    def also_wake_for(self, socket: Socket) -> None:
        """Let `collect` return when `socket` has a message, too."""
        self._poller.register(socket, zmq.POLLIN)

    def collect(self, *, wait: bool) -> list[Arrival]:
        """Return requests with their tokens, and cancellations, in order of arrival.

        Args:
            wait: block until there is something to return.
        """
        if wait:
            self._poller.poll()
        return list(self._arrivals.take_all())

    def _receive_forever(self, inbox: Socket) -> None:
        while True:
            for message in decode(inbox.recv()):
                self._take(message)

    def _take(self, message: Generate | Cancel) -> None:
        if isinstance(message, Generate) and any(isinstance(image, str) for image in message.sequence.images):
            self._fetching.add(message.id)
            self._fetchers.submit(self._encode_later, message)
        elif isinstance(message, Generate):
            self._arrivals.put((message, self._encode(message)))
        elif not self._stop_fetching(message.id):
            self._arrivals.put(message)

    def _encode_later(self, request: Generate) -> None:
        """Encode a sequence on a thread that may wait for other hosts; later sequences overtake it."""
        prompt = self._encode(request)
        if self._stop_fetching(request.id):
            self._arrivals.put((request, prompt))

    def _stop_fetching(self, request_id: int) -> bool:
        with self._lock:
            fetching = request_id in self._fetching
            self._fetching.discard(request_id)
            return fetching

    def _encode(self, request: Generate) -> Prompt | PromptError:
        try:
            return self._codec.encode(request.sequence)
        except PromptError as error:
            return error
        except Exception as error:  # else neither this request nor any later one would be answered
            return PromptError(f"The prompt cannot be read: {type(error).__name__}: {error}.")
