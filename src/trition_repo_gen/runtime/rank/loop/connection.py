"""A rank's connection to Triton's stub."""

import os
import uuid
from typing import Any

import zmq

from ...common.protocol import FRONTEND_VARIABLE, RUN_FOLDER_VARIABLE, Hello, Progress, encode
from ...common.sockets import Socket, new_socket

_LINGER = 1000
"""Milliseconds."""


class RankConnection:
    """Sends messages to the stub.

    Ranks of other nodes get the stub's endpoint only after the rendezvous; messages are kept until then.
    """

    def __init__(self, rank: int):
        self._rank = rank
        self.identity = f"rank {rank} {uuid.uuid4().hex}".encode()
        self._socket = new_socket(zmq.DEALER, linger=_LINGER)
        self._socket.setsockopt(zmq.IDENTITY, self.identity)
        self._endpoint: str | None = None
        self._early: list[bytes] = []
        self.send(
            Hello(
                rank=rank,
                pid=os.getpid(),
                attempt=int(os.environ["TORCHELASTIC_RESTART_COUNT"]),
                local=RUN_FOLDER_VARIABLE in os.environ,
                local_rank=int(os.environ["LOCAL_RANK"]),
            )
        )
        if endpoint := os.environ.get(FRONTEND_VARIABLE):
            self.connect(endpoint)

    @property
    def connected(self) -> bool:
        """Whether `connect` was called."""
        return self._endpoint is not None

    def connect(self, endpoint: str) -> None:
        """Connect to the stub and send the messages that were kept."""
        self._socket.connect(endpoint)
        self._endpoint = endpoint
        early, self._early = self._early, []
        for frame in early:
            self._socket.send(frame)

    def open_inbox(self) -> Socket:
        """Return another connection to the stub for another thread: threads must not share sockets."""
        assert self._endpoint is not None
        inbox = new_socket(zmq.DEALER, linger=_LINGER)
        inbox.connect(self._endpoint)
        return inbox

    def send(self, message: Any) -> None:
        """Send a message, or a list of messages; never blocks."""
        if self.connected:
            self._socket.send(encode(message))
        else:
            self._early.append(encode(message))

    def progress(self, text: str) -> None:
        """Report what this rank is doing."""
        self.send(Progress(self._rank, text))

    def close(self) -> None:
        """Send what is queued, then close all of this process's sockets."""
        zmq.Context.instance().destroy(linger=_LINGER)
