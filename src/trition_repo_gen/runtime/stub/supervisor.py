"""Supervises the ranks: starts torchrun, follows their starts and their ends, and says why they cannot serve."""

import contextlib
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Protocol

from ..common.protocol import Fatal, Hello, Progress, Ready
from ..common.settings import Settings
from .event_loop import EventLoop, Timer
from .launcher import Launcher, LaunchError
from .router import Leader


class Owner(Protocol):
    """Receives what becomes of the group of ranks, on the loop's thread."""

    def group_up(self, leaders: list[Leader]) -> None:
        """All ranks take sequences, through these leaders."""

    def group_lost(self, sentence: str) -> None:
        """A rank has died; torchrun starts the group again."""

    def failed(self, sentence: str) -> None:
        """The ranks do not come back."""


class Supervisor:
    """Supervises the ranks of one deployment. All methods are called on the loop's thread.

    torchrun starts all ranks and, once one of them has died, ends the others and starts all of them again. Ranks of two
    starts can therefore be alive at the same time; those of the older one are ignored.

    Args:
        settings: the deployment.
        launcher: starts torchrun.
        loop: the event loop. The kernel ends torchrun and its ranks when the loop's thread ends.
        log: takes lines for the server's log.
        owner: receives what becomes of the ranks.
    """

    def __init__(
        self, settings: Settings, launcher: Launcher, loop: EventLoop, log: Callable[[str], None], owner: Owner
    ):
        self._settings = settings
        self._launcher = launcher
        self._loop = loop
        self._log = log
        self._owner = owner
        self._ranks: dict[bytes, Hello] = {}
        """Ranks of the present start, by connection."""
        self._leaders: dict[bytes, Leader] = {}
        """Those of them that take sequences, by connection."""
        self._stages: defaultdict[int, list[str]] = defaultdict(list)
        """What each rank of the present start has reported as its progress, by rank."""
        self._processes: dict[int, bytes | None] = {}
        """Process file descriptor → connection of a rank, None for other processes."""
        self._died_attempt = -1
        """The newest start of which a rank has died."""
        self._deadline: Timer | None = None
        """Set while the group starts."""
        self._was_up = False
        self._has_failed = False

    def start(self, remote_endpoint: str | None) -> None:
        """Start torchrun; end everything when tritonserver ends.

        Args:
            remote_endpoint: where the stub listens for the ranks of other nodes.
        """
        self._watch_process(os.getppid(), self._tritonserver_ended)
        self._set_deadline()
        try:
            pid = self._launcher.start(remote_endpoint)
        except LaunchError as error:
            self._fail(str(error))
            return
        self._watch_process(pid, self._torchrun_ended)
        self._log("torchrun starts the ranks")

    def give_up(self, sentence: str) -> None:
        """Report a failure for this reason, and end torchrun and its ranks."""
        self._fail(sentence)
        self._launcher.stop()

    def stop(self) -> None:
        """End torchrun and its ranks, and follow no process any more."""
        for descriptor in list(self._processes):
            self._forget_process(descriptor)
        self._launcher.stop()

    # What ranks report.

    def rank_connected(self, connection: bytes, hello: Hello) -> None:
        """Count a rank as one of the present start."""
        if self._has_failed or self._is_over(hello):
            return  # torchrun is ending it
        self._ranks[connection] = hello
        if hello.local:
            self._watch_process(hello.pid, partial(self._rank_ended, connection), connection)

    def rank_progressed(self, progress: Progress) -> None:
        """Log what a rank does while it starts."""
        self._stages[progress.rank].append(progress.text)
        self._log(f"rank {progress.rank}: {progress.text}")

    def rank_cannot_start(self, fatal: Fatal) -> None:
        """Give up, unless the group was up before: then the next start may succeed."""
        if self._has_failed:
            return
        sentence = f"Rank {fatal.rank} cannot start: {fatal.sentence}"
        if self._was_up:
            self._log(sentence)
        else:
            self.give_up(sentence)

    def leader_ready(self, inbox: bytes, ready: Ready) -> None:
        """Report that the group is up, if this is the last of its leaders."""
        if not self._has_failed and ready.connection in self._ranks:
            self._leaders[ready.connection] = Leader(ready.connection, inbox, ready)
            self._check_whether_up()

    # What the loop reports.

    def _watch_process(self, pid: int, on_end: Callable[[], None], connection: bytes | None = None) -> None:
        """Call `on_end` once, when the process has ended; forget it with its rank."""
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            on_end()
            return

        def ended() -> None:
            self._forget_process(descriptor)
            on_end()

        self._processes[descriptor] = connection
        self._loop.watch(descriptor, ended)

    def _forget_process(self, descriptor: int) -> None:
        self._loop.unwatch(descriptor)
        del self._processes[descriptor]
        os.close(descriptor)

    def _tritonserver_ended(self) -> None:
        """End this process. Triton's stub would not: it only checks that the process id exists, as a zombie's does."""
        self._launcher.stop()
        os.kill(os.getpid(), signal.SIGKILL)

    def _torchrun_ended(self) -> None:
        if self._has_failed:
            return
        self._log_lines("torchrun", self._launcher.last_lines(None))
        self._log_lines("ranks", self._launcher.newest_lines())
        self._fail(f"The ranks are gone for good: torchrun {self._launcher.exit_status()}; the log above says why.")

    def _rank_ended(self, connection: bytes) -> None:
        if self._has_failed or connection not in self._ranks:
            return
        dead = self._ranks[connection]
        self._died_attempt = dead.attempt
        self._forget_start()
        self._set_deadline()
        self._owner.group_lost(f"Rank {dead.rank} of the model died; the ranks are being started again.")
        self._log(f"rank {dead.rank} died (start {dead.attempt + 1} of {self._settings.max_restarts + 1})")
        self._log_lines(f"rank {dead.rank}", self._launcher.last_lines(dead.local_rank, dead.attempt))
        self._check_whether_up()

    def _start_timed_out(self) -> None:
        """Give up, or start the group again if it was up before; log which ranks are late."""
        ranks = {hello.rank: hello for hello in self._ranks.values()}
        late = self._late_ranks(ranks)
        sentence = f"The ranks were not ready after {self._settings.start_timeout} s: {self._lateness(late, ranks)}"
        local = [ranks[rank] for rank in late if rank in ranks and ranks[rank].local]
        for hello in local:
            self._log_lines(f"rank {hello.rank}", self._launcher.last_lines(hello.local_rank, hello.attempt))
        if self._was_up and local:
            self._log(f"{sentence}; the group is started again.")
            self._set_deadline()
            for hello in local:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(hello.pid, signal.SIGKILL)
            return
        self.give_up(f"{sentence}; if they need longer, raise START_TIMEOUT in config.pbtxt.")

    # The present start.

    def _is_over(self, hello: Hello) -> bool:
        """Whether another rank of the same start has died. With several nodes torchrun does not count all starts."""
        return self._settings.num_nodes == 1 and hello.attempt <= self._died_attempt

    def _forget_start(self) -> None:
        """Forget the ranks of the start that is over: torchrun ends them. Some of the next start may have connected."""
        several = self._settings.num_nodes > 1
        over = {connection for connection, hello in self._ranks.items() if several or self._is_over(hello)}
        for descriptor in [fd for fd, connection in self._processes.items() if connection in over]:
            self._forget_process(descriptor)
        for connection in over:
            del self._ranks[connection]
            self._leaders.pop(connection, None)
        self._stages.clear()

    def _check_whether_up(self) -> None:
        leaders = list(self._leaders.values())
        if leaders and len(leaders) == leaders[0].ready.groups:
            self._was_up = True
            self._cancel_deadline()
            self._owner.group_up(leaders)
            self._log(f"{self._settings.world_size} ranks take requests")

    def _late_ranks(self, ranks: dict[int, Hello]) -> list[int]:
        """Return the ranks that have not connected, or else those that have reported the fewest stages.

        All ranks go through the same stages while they start.
        """
        if missing := set(range(self._settings.world_size)) - ranks.keys():
            return sorted(missing)
        fewest = min(len(self._stages[rank]) for rank in ranks)
        return sorted(rank for rank in ranks if len(self._stages[rank]) == fewest)

    def _lateness(self, late: list[int], ranks: dict[int, Hello]) -> str:
        names = ", ".join(f"rank {rank}" for rank in late)
        if late[0] not in ranks:
            return f"{names} did not start"
        stages = self._stages[late[0]]
        return f"{names} said nothing after {stages[-1]!r}" if stages else f"{names} said nothing"

    def _set_deadline(self) -> None:
        self._cancel_deadline()
        self._deadline = self._loop.call_at(time.monotonic() + self._settings.start_timeout, self._start_timed_out)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # Reports.

    def _fail(self, sentence: str) -> None:
        self._has_failed = True
        self._cancel_deadline()
        self._log(sentence)
        self._owner.failed(sentence)

    def _log_lines(self, source: str, lines: list[str]) -> None:
        for line in lines or ["(it wrote nothing)"]:
            self._log(f"{source} | {line}")
