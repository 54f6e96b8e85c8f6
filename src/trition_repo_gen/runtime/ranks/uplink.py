"""A rank's connection to Triton's stub."""

import os
from typing import Any

import zmq

from ..protocol import FRONTEND_VARIABLE, Hello, Progress, decode, encode
from .topology import node_name


class Uplink:
    """Sends messages to the stub and, on leaders, receives them. Without a stub (`TRGEN_FRONTEND` unset) it is mute."""

    def __init__(self, rank: int):
        self._rank = rank
        self.socket: zmq.Socket[bytes] | None = None
        if endpoint := os.environ.get(FRONTEND_VARIABLE):
            self.socket = zmq.Context.instance().socket(zmq.DEALER)
            self.socket.setsockopt(zmq.LINGER, 1000)
            self.socket.connect(endpoint)
        attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        self.send(Hello(rank, os.getpid(), attempt, node_name()))

    def send(self, message: Any) -> None:
        """Send a message; never blocks."""
        if self.socket is not None:
            self.socket.send(encode(message))

    def progress(self, text: str) -> None:
        """Say what this rank is doing."""
        self.send(Progress(self._rank, text))

    def receive(self) -> list[Any]:
        """Return the messages that have come since, without waiting."""
        messages: list[Any] = []
        while self.socket is not None:
            try:
                messages.append(decode(self.socket.recv(zmq.NOBLOCK)))
            except zmq.Again:
                break
        return messages

    def close(self) -> None:
        """Let what was sent leave, then close all of this process's sockets."""
        zmq.Context.instance().destroy(linger=1000)
