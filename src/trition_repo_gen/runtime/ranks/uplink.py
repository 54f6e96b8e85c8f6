"""A rank's connection to Triton's stub."""

import os
from typing import Any

import zmq

from ..protocol import FRONTEND_VARIABLE, RUN_FOLDER_VARIABLE, Hello, Progress, decode, encode


class Uplink:
    """Sends messages to the stub and, on leaders, receives them.

    Ranks of other nodes learn the stub's endpoint only when all ranks have met; until then messages are kept.
    """

    def __init__(self, rank: int):
        self._rank = rank
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 1000)  # milliseconds
        self._early: list[bytes] | None = []
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
        return self._early is None

    def connect(self, endpoint: str) -> None:
        """Connect to the stub and send what was held back so far."""
        self.socket.connect(endpoint)
        early, self._early = self._early or [], None
        for frame in early:
            self.socket.send(frame)

    def send(self, message: Any) -> None:
        """Send a message; never blocks."""
        if self._early is not None:
            self._early.append(encode(message))
        else:
            self.socket.send(encode(message))

    def progress(self, text: str) -> None:
        """Say what this rank is doing."""
        self.send(Progress(self._rank, text))

    def receive(self) -> list[Any]:
        """Return the messages that have come since, without waiting."""
        messages: list[Any] = []
        while True:
            try:
                messages.append(decode(self.socket.recv(zmq.NOBLOCK)))
            except zmq.Again:
                break
        return messages

    def close(self) -> None:
        """Let what was sent leave, then close all of this process's sockets."""
        zmq.Context.instance().destroy(linger=1000)
