"""The stub's view of the ranks: starts them, routes sequences to them, notices their death and their return."""

import os
import signal
import socket
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import zmq

from ..common.mailbox import Mailbox
from ..common.protocol import (
    Cancel,
    Deltas,
    Done,
    ErrorKind,
    Fatal,
    Generate,
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
from ..common.sockets import Socket, new_socket
from .launcher import Launcher, LaunchError
from .metrics import Metrics

Outcome = Done | Refused
OnOutcome = Callable[[Outcome], None]
OnText = Callable[[str], None]


class RanksError(RuntimeError):
    """The ranks are not there and will not come; the text says why."""


@dataclass
class _LeaderState:
    ready: Ready
    inbox: bytes
    """The identity of the socket that takes its requests."""
    sequences: set[int] = field(default_factory=set)
    kv_cache_usage: float = 0.0


@dataclass(frozen=True)
class _Submission:
    id: int
    sequence: SequenceRequest
    on_outcome: OnOutcome
    on_text: OnText | None
    arrived: float


class Ranks:
    """The deployment's ranks, as one thing that takes sequences.

    One thread talks to them, watches their processes and calls back. It starts torchrun, too, so that the ranks end
    when it does.

    Args:
        settings: the deployment.
        script: the rank's program.
        log: takes lines for the server's log.
        metrics: counts what happens.
    """

    def __init__(self, settings: Settings, script: Path, log: Callable[[str], None], metrics: Metrics):
        self._settings = settings
        self._log = log
        self.metrics = metrics
        """The deployment's: the streaming model's refusals are counted here, too."""
        self._launcher = Launcher(settings, script)
        self._commands: Mailbox[_Submission | Cancel | Callable[[], None] | None] = Mailbox()
        self._ids = count(1)
        self._settled = threading.Event()
        self._unavailable = "The model is still loading."
        self._failure: str | None = None

        self._pending: dict[int, _Submission] = {}
        self._leaders: dict[bytes, _LeaderState] = {}
        self._outgoing: defaultdict[bytes, list[Generate | Cancel]] = defaultdict(list)
        """What goes to each inbox next: all of it in one frame."""
        self._up = False
        self._sockets: dict[Socket, Callable[[], None]] = {}
        """Further sockets that the thread reads, and what does it."""
        self._known: dict[bytes, Hello] = {}
        """Ranks of the present start. A rank that outlives another for a moment is no longer one of them."""
        self._processes: dict[int, bytes | None] = {}
        """Process file descriptor → the rank's identity; None is torchrun."""
        self._died = -1
        """The newest start of which a rank has died."""
        self._deadline = 0.0
        self._stages: defaultdict[int, list[str]] = defaultdict(list)
        """What each rank of the present start has said."""
        self._thread = threading.Thread(target=self._run, name="ranks", daemon=True)

    # Called by the stub's threads.

    def start(self) -> Ready:
        """Start the ranks and wait until they take requests.

        Returns:
            the limits of the whole deployment; `slots` is the sum over all groups.

        Raises:
            RanksError: they did not come up.
        """
        self._thread.start()
        self._settled.wait()
        if self._failure is not None:
            raise RanksError(self._failure)
        readies = [leader.ready for leader in self._leaders.values()]
        return replace(readies[0], slots=sum(ready.slots for ready in readies))

    def submit(
        self, sequence: SequenceRequest, arrived: float, on_outcome: OnOutcome, on_text: OnText | None = None
    ) -> int:
        """Hand a sequence over, whose request arrived at `arrived` on the monotonic clock. Returns the sequence's id.

        `on_outcome` is called once, on the ranks' thread; so is `on_text` with new text of a sequence that streams.
        """
        submission = _Submission(next(self._ids), sequence, on_outcome, on_text, arrived)
        self._commands.put(submission)
        return submission.id

    def cancel(self, sequence_id: int) -> None:
        """Nobody waits for the sequence any more: its outcome will not be reported."""
        self._commands.put(Cancel(sequence_id))

    def run_soon(self, action: Callable[[], None]) -> None:
        """Call `action` on the ranks' thread."""
        self._commands.put(action)

    def read_too(self, socket: Socket, read: Callable[[], None]) -> None:
        """Have the ranks' thread call `read` when something comes on `socket`. To be called on that thread."""
        self._sockets[socket] = read
        self._poller.register(socket, zmq.POLLIN)

    def stop(self) -> None:
        """End the ranks; sequences that are still running are refused."""
        self._commands.put(None)
        self._thread.join()

    # The ranks' thread.

    def _run(self) -> None:
        router = new_socket(zmq.ROUTER)
        try:
            router.bind(self._launcher.endpoint)
            self._poller = zmq.Poller()
            self._poller.register(router, zmq.POLLIN)
            self._poller.register(self._commands, zmq.POLLIN)
            self._server = os.pidfd_open(os.getppid())
            self._poller.register(self._server, zmq.POLLIN)
            self._deadline = time.monotonic() + self._settings.start_timeout
            self._watch(self._launcher.start(self._listen_for_other_nodes(router)), None)
            self._log("torchrun starts the ranks")
            while self._serve_events(router):
                pass
        except LaunchError as error:
            self._fail(str(error))
        except Exception as error:
            self._fail(f"The thread that talks to the ranks broke: {error!r}.")
            raise
        finally:
            self._refuse_pending("UNAVAILABLE", "The server is stopping.")
            self._launcher.stop()
            router.close()

    def _listen_for_other_nodes(self, router: Socket) -> str | None:
        if self._settings.num_nodes == 1:
            return None
        address = f"tcp://{socket.gethostbyname(self._settings.rendezvous.rpartition(':')[0])}"
        return f"{address}:{router.bind_to_random_port(address)}"

    def _serve_events(self, router: Socket) -> bool:
        """Handle what has happened; return False when it is time to stop."""
        events = [event for event, _ in self._poller.poll(self._milliseconds_left())]
        try:
            return self._handle_events(events, router)
        except Exception as error:  # a mistake of ours: who comes from now on is refused and not kept waiting
            traceback.print_exc()
            self._fail(f"The thread that talks to the ranks broke: {error!r}.")
            self._launcher.stop()
            return True

    def _handle_events(self, events: list[Any], router: Socket) -> bool:
        for event in events:
            if event is router:
                self._receive(router)
            elif event in self._sockets:
                self._sockets[event]()
            elif event == self._server:
                # Killed. Triton's stub only looks whether its process id is taken, which it is until somebody reaps it.
                self._launcher.stop()
                os.kill(os.getpid(), signal.SIGKILL)
            elif event in self._processes:
                identity = self._processes[event]
                self._forget(event)
                self._process_ended(identity)
        for command in self._commands.take_all():
            if command is None:
                return False
            self._handle(command)
        self._send_all(router)
        if not self._up and self._failure is None and time.monotonic() > self._deadline:
            self._start_timed_out()
        return True

    def _start_timed_out(self) -> None:
        """Say which ranks are late, then give up; but start the group again if it ran before."""
        hellos = {hello.rank: hello for hello in self._known.values()}
        missing = set(range(self._settings.world_size)) - hellos.keys()
        # All come by the same stages while they start: those that have said least are not as far as the others.
        least = min(len(self._stages[rank]) for rank in hellos) if hellos else 0
        late = sorted(missing or (rank for rank in hellos if len(self._stages[rank]) == least))
        said = self._stages[late[0]]
        what = "did not start" if missing else f"said nothing after {said[-1]!r}" if said else "said nothing"
        sentence = (
            f"The ranks were not ready after {self._settings.start_timeout} s: "
            f"{', '.join(f'rank {rank}' for rank in late)} {what}"
        )
        local = [hellos[rank] for rank in late if rank in hellos and hellos[rank].local]
        for hello in local:
            self._log_lines(f"rank {hello.rank}", self._launcher.last_lines(hello.local_rank, hello.attempt))
        if self._settled.is_set() and local:
            self._log(f"{sentence}; the group is started again.")
            self._deadline = time.monotonic() + self._settings.start_timeout
            for hello in local:
                os.kill(hello.pid, signal.SIGKILL)
            return
        self._fail(f"{sentence}; if they need longer, raise START_TIMEOUT in config.pbtxt.")
        self._launcher.stop()

    def _milliseconds_left(self) -> int | None:
        if self._up or self._failure is not None:
            return None
        return max(0, int((self._deadline - time.monotonic()) * 1000) + 1)

    def _receive(self, router: Socket) -> None:
        while True:
            try:
                identity, frame = router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            message = decode(frame)
            for each in message if isinstance(message, list) else [message]:
                self._handle_message(identity, each)

    def _handle_message(self, identity: bytes, message: Any) -> None:
        if isinstance(message, Deltas):
            for sequence_id, text in message.sequences:
                if (pending := self._pending.get(sequence_id)) is not None and pending.on_text is not None:
                    pending.on_text(text)
        elif isinstance(message, Done | Refused):
            self._settle(identity, message)
        elif isinstance(message, Usage):
            if (leader := self._leaders.get(identity)) is not None:
                leader.kv_cache_usage = message.kv_cache
                self.metrics.set("kv_cache_usage_perc", max(each.kv_cache_usage for each in self._leaders.values()))
        elif isinstance(message, Progress):
            self._stages[message.rank].append(message.text)
            self._log(f"rank {message.rank}: {message.text}")
        elif isinstance(message, Hello):
            self._greet(identity, message)
        elif isinstance(message, Fatal) and self._failure is None:
            self._cannot_start(message)
        elif isinstance(message, Ready) and message.connection in self._known:
            self._leaders[message.connection] = _LeaderState(message, identity)
            self._come_up()

    def _come_up(self) -> None:
        """Take requests, if all leaders do."""
        leaders = list(self._leaders.values())
        if leaders and len(leaders) == leaders[0].ready.groups:
            self._up = True
            self._settled.set()
            self._log(f"{self._settings.world_size} ranks take requests")

    def _cannot_start(self, message: Fatal) -> None:
        sentence = f"Rank {message.rank} cannot start: {message.sentence}"
        if self._settled.is_set():  # it could once, so the next try may succeed
            self._log(sentence)
        else:
            self._fail(sentence)
            self._launcher.stop()

    def _greet(self, identity: bytes, hello: Hello) -> None:
        if self._is_over(hello):
            return  # torchrun is ending it
        self._known[identity] = hello
        if hello.local:
            self._watch(hello.pid, identity)

    def _watch(self, pid: int, identity: bytes | None) -> None:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self._process_ended(identity)
            return
        self._processes[descriptor] = identity
        self._poller.register(descriptor, zmq.POLLIN)

    def _forget(self, descriptor: int) -> None:
        self._poller.unregister(descriptor)
        del self._processes[descriptor]
        os.close(descriptor)

    def _process_ended(self, identity: bytes | None) -> None:
        if self._failure is not None:
            return
        if identity is None:
            self._torchrun_ended()
        elif identity in self._known:
            self._rank_died(self._known[identity])

    def _is_over(self, hello: Hello) -> bool:
        """Whether another rank of the same start has died. With several nodes torchrun does not count all starts."""
        return self._settings.num_nodes == 1 and hello.attempt <= self._died

    def _rank_died(self, dead: Hello) -> None:
        self._died = dead.attempt
        # torchrun now ends the other ranks: that is no news. Those of the next start may have said hello already.
        several = self._settings.num_nodes > 1
        over = {identity for identity, hello in self._known.items() if several or self._is_over(hello)}
        for descriptor in [fd for fd, other in self._processes.items() if other in over]:
            self._forget(descriptor)
        for identity in over:
            del self._known[identity]
        self._leaders = {connection: leader for connection, leader in self._leaders.items() if connection not in over}
        self._stages.clear()
        self._up = False
        self._deadline = time.monotonic() + self._settings.start_timeout
        self._unavailable = f"Rank {dead.rank} of the model died; the ranks are being started again."
        self.metrics.add("rank_restarts_total")
        self._refuse_pending("UNAVAILABLE", self._unavailable)
        self._log(f"rank {dead.rank} died (start {dead.attempt + 1} of {self._settings.max_restarts + 1})")
        self._log_lines(f"rank {dead.rank}", self._launcher.last_lines(dead.local_rank, dead.attempt))
        self._come_up()

    def _log_lines(self, source: str, lines: list[str]) -> None:
        for line in lines or ["(it wrote nothing)"]:
            self._log(f"{source} | {line}")

    def _torchrun_ended(self) -> None:
        self._log_lines("torchrun", self._launcher.last_lines(None))
        self._log_lines("ranks", self._launcher.newest_lines())
        self._fail(f"The ranks are gone for good: torchrun {self._launcher.exit_status()}; the log above says why.")

    def _fail(self, sentence: str) -> None:
        self._failure = self._unavailable = sentence
        self._up = False
        self._log(sentence)
        self._refuse_pending("UNAVAILABLE", sentence)
        self._settled.set()

    def _send_all(self, router: Socket) -> None:
        outgoing, self._outgoing = self._outgoing, defaultdict(list)
        for inbox, messages in outgoing.items():
            router.send_multipart([inbox, encode(messages)])

    def _handle(self, command: "_Submission | Cancel | Callable[[], None]") -> None:
        if callable(command):
            command()
            return
        if isinstance(command, Cancel):
            if self._pending.pop(command.id, None) is not None:
                self.metrics.withdrawn(1)
                self.metrics.set("num_requests_running", len(self._pending))
                for leader in self._leaders.values():
                    if command.id in leader.sequences:
                        leader.sequences.discard(command.id)
                        self._outgoing[leader.inbox].append(command)
            return
        if not self._up:
            self._refuse(command, "UNAVAILABLE", self._unavailable)
            return
        leader = min(self._leaders.values(), key=lambda leader: len(leader.sequences) / leader.ready.slots)
        leader.sequences.add(command.id)
        self._pending[command.id] = command
        self.metrics.set("num_requests_running", len(self._pending))
        self._outgoing[leader.inbox].append(Generate(command.id, command.sequence))

    def _settle(self, identity: bytes, outcome: Outcome) -> None:
        if leader := self._leaders.get(identity):
            leader.sequences.discard(outcome.id)
        if pending := self._pending.pop(outcome.id, None):
            self._count(outcome, pending)
            pending.on_outcome(outcome)

    def _count(self, outcome: Outcome, submission: _Submission) -> None:
        self.metrics.set("num_requests_running", len(self._pending))
        if isinstance(outcome, Done):
            self.metrics.finished(outcome, time.monotonic() - submission.arrived)
        else:
            self.metrics.refused(outcome.kind)

    def _refuse_pending(self, kind: ErrorKind, sentence: str) -> None:
        pending, self._pending = self._pending, {}
        for submission in pending.values():
            self._refuse(submission, kind, sentence)

    def _refuse(self, submission: _Submission, kind: ErrorKind, sentence: str) -> None:
        refused = Refused(submission.id, kind, sentence)
        self._count(refused, submission)
        submission.on_outcome(refused)
