"""The ranks of a deployment, as one object that takes sequences."""

import socket
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import zmq

from ..common.protocol import (
    Deltas,
    Done,
    Fatal,
    Hello,
    Progress,
    Ready,
    Refused,
    SequenceRequest,
    Usage,
    decode,
    encode,
)
from ..common.settings import Settings
from ..common.sockets import new_socket
from .event_loop import EventLoop
from .launcher import Launcher
from .metrics import Metrics
from .router import Leader, OnOutcome, OnText, Router, Submission
from .supervisor import Supervisor


class RanksError(RuntimeError):
    """The ranks cannot be started; the text says why."""


class Ranks:
    """The deployment's ranks: owns the socket that they connect to, and passes on what they send.

    A `Supervisor` starts them and follows their processes, a `Router` distributes sequences over them. Both run on the
    thread of one event loop, which also starts torchrun, so that the ranks end when the thread does.

    Args:
        settings: the deployment.
        script: the rank's program.
        log: takes lines for the server's log.
        metrics: counts what happens.
    """

    def __init__(self, settings: Settings, script: Path, log: Callable[[str], None], metrics: Metrics):
        self._settings = settings
        self.metrics = metrics
        """The deployment's: the streaming model's refusals are counted here, too."""
        self.loop = EventLoop("ranks", on_error=self._handle_error, on_stop=self._end)
        self._launcher = Launcher(settings, script)
        self._supervisor = Supervisor(settings, self._launcher, self.loop, log, self)
        self._router = Router(self.loop, self._send, metrics, "The model is still loading.")
        self._ids = count(1)
        self._settled = threading.Event()
        """Set once the ranks take sequences, or have failed."""
        self._limits: Ready | None = None
        self._failure = "The ranks were stopped."
        self.loop.run_soon(self._begin)

    # Called by the stub's threads.

    def start(self) -> Ready:
        """Start the ranks and wait until they take sequences.

        Returns:
            the limits of the whole deployment; `slots` is the sum over all groups.

        Raises:
            RanksError: they did not come up.
        """
        self.loop.start()
        self._settled.wait()
        if self._limits is None:
            raise RanksError(self._failure)
        return self._limits

    def submit(
        self, sequence: SequenceRequest, arrived: float, on_outcome: OnOutcome, on_text: OnText | None = None
    ) -> int:
        """Submit a sequence, whose request arrived at `arrived` on the monotonic clock. Return the sequence's id.

        `on_outcome` is called once, on the loop's thread; so is `on_text` with new text of a sequence that streams.
        """
        sequence_id = next(self._ids)
        submission = Submission(sequence_id, sequence, on_outcome, on_text, arrived)
        self.loop.run_soon(partial(self._router.submit, submission))
        return sequence_id

    def cancel(self, sequence_id: int) -> None:
        """End a sequence; its outcome is not reported."""
        self.loop.run_soon(partial(self._router.cancel, sequence_id))

    def stop(self) -> None:
        """End the ranks; sequences that are still running are refused."""
        self.loop.stop()

    # Called by the supervisor.

    def group_up(self, leaders: list[Leader]) -> None:
        """Take sequences."""
        self._router.open(leaders)
        if self._limits is None:
            self._limits = replace(leaders[0].ready, slots=sum(leader.ready.slots for leader in leaders))
            self._settled.set()

    def group_lost(self, sentence: str) -> None:
        """Refuse sequences until the group is up again."""
        self.metrics.add("rank_restarts_total")
        self._router.close(sentence)

    def failed(self, sentence: str) -> None:
        """Refuse sequences from now on."""
        self._failure = sentence
        self._router.close(sentence)
        self._settled.set()

    # The loop's thread.

    def _begin(self) -> None:
        self._socket = new_socket(zmq.ROUTER)
        self._socket.bind(self._launcher.endpoint)
        self.loop.watch(self._socket, self._receive)
        self._supervisor.start(self._listen_for_other_nodes())

    def _listen_for_other_nodes(self) -> str | None:
        if self._settings.num_nodes == 1:
            return None
        address = f"tcp://{socket.gethostbyname(self._settings.rendezvous.rpartition(':')[0])}"
        return f"{address}:{self._socket.bind_to_random_port(address)}"

    def _handle_error(self, error: Exception) -> None:
        """Refuse all sequences instead of leaving those without an outcome that the error concerns."""
        traceback.print_exception(error)
        self._supervisor.give_up(f"The thread that talks to the ranks broke: {error!r}.")

    def _end(self) -> None:
        self._router.close("The server is stopping.")
        self._supervisor.stop()
        self._socket.close()
        self._settled.set()

    def _send(self, identity: bytes, message: Any) -> None:
        self._socket.send_multipart([identity, encode(message)])

    def _receive(self) -> None:
        while True:
            try:
                identity, frame = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            message = decode(frame)
            for each in message if isinstance(message, list) else [message]:
                self._handle(identity, each)

    def _handle(self, identity: bytes, message: Any) -> None:
        if isinstance(message, Deltas):
            self._router.pass_text(message)
        elif isinstance(message, Done | Refused):
            self._router.settle(identity, message)
        elif isinstance(message, Usage):
            self._router.note_usage(identity, message.kv_cache)
        elif isinstance(message, Progress):
            self._supervisor.rank_progressed(message)
        elif isinstance(message, Hello):
            self._supervisor.rank_connected(identity, message)
        elif isinstance(message, Fatal):
            self._supervisor.rank_cannot_start(message)
        elif isinstance(message, Ready):
            self._supervisor.leader_ready(identity, message)
