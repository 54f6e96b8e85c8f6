"""What the supervisor makes of ranks that connect, die, stay away or cannot start: on real processes."""

import contextlib
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.unit.runtime.stub.conftest import Loop
from trition_repo_gen.runtime.common.protocol import Fatal, Hello, Progress, Ready
from trition_repo_gen.runtime.common.settings import Settings
from trition_repo_gen.runtime.stub.launcher import Launcher
from trition_repo_gen.runtime.stub.router import Leader
from trition_repo_gen.runtime.stub.supervisor import Supervisor

WAITS = "import signal; signal.pause()"
"""A program in the place of torchrun."""


@dataclass
class Owner:
    """Notes what it is told, and the log."""

    notes: "queue.Queue[str]" = field(default_factory=queue.Queue)

    def log(self, line: str) -> None:
        self.notes.put(f"log: {line}")

    def group_up(self, leaders: list[Leader]) -> None:
        self.notes.put(f"up: {' '.join(leader.inbox.decode() for leader in leaders)}")

    def group_lost(self, sentence: str) -> None:
        self.notes.put(f"lost: {sentence}")

    def failed(self, sentence: str) -> None:
        self.notes.put(f"failed: {sentence}")

    def next(self, count: int) -> list[str]:
        return [self.notes.get(timeout=60) for _ in range(count)]

    def until(self, beginning: str) -> list[str]:
        """Return the notes before one that begins like this."""
        notes: list[str] = []
        while not (note := self.notes.get(timeout=60)).startswith(beginning):
            notes.append(note)
        return notes


class Group:
    """A supervisor, with a program in the place of torchrun, and processes in the place of ranks."""

    def __init__(self, loop: Loop, folder: Path, program: str, **settings: Any):
        script = folder / "model.py"
        script.write_text(program)
        parameters: dict[str, Any] = {"checkpoint": "none", "rank_python": sys.executable, "num_gpus": 2} | settings
        self.settings = Settings(**parameters)
        self.owner = Owner()
        self.launcher = Launcher(self.settings, script)
        self.supervisor = Supervisor(self.settings, self.launcher, loop, self.owner.log, self.owner)
        self.processes: dict[tuple[int, int], subprocess.Popen[bytes]] = {}

    def connect(self, rank: int, attempt: int = 0) -> None:
        """Start a rank's process, and report it."""
        process = subprocess.Popen([sys.executable, "-c", WAITS])
        self.processes[rank, attempt] = process
        self.connect_again(rank, attempt)

    def connect_again(self, rank: int, attempt: int) -> None:
        hello = Hello(rank, self.processes[rank, attempt].pid, attempt, local=True, local_rank=rank)
        self.supervisor.rank_connected(f"{rank}/{attempt}".encode(), hello)

    def ready(self, rank: int, attempt: int = 0, groups: int = 1) -> None:
        ready = Ready(f"{rank}/{attempt}".encode(), groups, slots=1, max_sequence_length=10, max_prompt_bytes=40)
        self.supervisor.leader_ready(f"inbox {rank}/{attempt}".encode(), ready)

    def kill(self, rank: int, attempt: int = 0) -> None:
        self.processes[rank, attempt].kill()
        self.processes[rank, attempt].wait()

    def end(self) -> None:
        self.supervisor.stop()
        for process in self.processes.values():
            process.kill()
            process.wait()


NewGroup = Callable[..., Group]


@pytest.fixture
def new_group(loop: Loop, tmp_path: Path) -> Iterator[NewGroup]:
    """Make groups on the loop, and end them after the test."""
    with contextlib.ExitStack() as stack:

        def new(program: str = WAITS, **settings: Any) -> Group:
            group = Group(loop, tmp_path, program, **settings)
            stack.callback(loop.call, group.end)
            return group

        yield new


def up(group: Group) -> None:
    """Start a group, and let two ranks connect, of which the first is the leader."""
    group.supervisor.start(None)
    for rank in range(2):
        group.connect(rank)
    group.ready(0)


UP = ["log: torchrun starts the ranks", "up: inbox 0/0", "log: 2 ranks take requests"]


def test_the_group_is_up_once_all_its_leaders_are_ready(loop: Loop, new_group: NewGroup) -> None:
    group = new_group()

    def start() -> None:
        group.supervisor.start(None)
        group.supervisor.rank_progressed(Progress(1, "importing torch"))
        for rank in range(2):
            group.connect(rank)
        group.ready(1, groups=2)
        group.owner.log("one of two is ready")
        group.ready(0, groups=2)

    loop.call(start)

    assert group.owner.next(5) == [
        "log: torchrun starts the ranks",
        "log: rank 1: importing torch",
        "log: one of two is ready",
        "up: inbox 1/0 inbox 0/0",
        "log: 2 ranks take requests",
    ]


def test_a_dead_rank_ends_its_start_and_the_next_one_brings_the_group_up(loop: Loop, new_group: NewGroup) -> None:
    group = new_group()
    loop.call(partial(up, group))
    assert group.owner.next(3) == UP

    group.kill(1)
    assert group.owner.next(3) == [
        "lost: Rank 1 of the model died; the ranks are being started again.",
        "log: rank 1 died (start 1 of 4)",
        "log: rank 1 | (it wrote nothing)",
    ]

    def start_again() -> None:
        group.connect_again(0, attempt=0)  # it has not ended yet
        group.ready(0, attempt=0)
        for rank in range(2):
            group.connect(rank, attempt=1)
        group.ready(0, attempt=1)

    loop.call(start_again)
    group.kill(0, attempt=0)
    assert group.owner.next(2) == ["up: inbox 0/1", "log: 2 ranks take requests"]
    loop.call(lambda: None)
    assert group.owner.notes.empty()


def test_ranks_of_the_next_start_may_connect_before_the_death_is_noticed(loop: Loop, new_group: NewGroup) -> None:
    group = new_group()
    loop.call(partial(up, group))
    group.owner.next(3)

    def die_and_start_again() -> None:
        group.kill(1)  # reported in the next turn
        for rank in range(2):
            group.connect(rank, attempt=1)
        group.ready(0, attempt=1, groups=1)

    loop.call(die_and_start_again)

    group.owner.until("lost: Rank 1 of the model died; the ranks are being started again.")
    group.owner.until("up: inbox 0/1")


def test_the_end_of_torchrun_is_final_and_the_log_has_its_last_lines(loop: Loop, new_group: NewGroup) -> None:
    group = new_group('import sys; print("no port", file=sys.stderr); sys.exit(3)')
    loop.call(partial(group.supervisor.start, None))

    sentence = "The ranks are gone for good: torchrun exited with code 3; the log above says why."
    assert group.owner.next(5) == [
        "log: torchrun starts the ranks",
        "log: torchrun | no port",
        "log: ranks | (it wrote nothing)",
        f"log: {sentence}",
        f"failed: {sentence}",
    ]


def test_an_interpreter_that_cannot_be_run_is_named(loop: Loop, new_group: NewGroup) -> None:
    group = new_group(rank_python="/nowhere/python")
    loop.call(partial(group.supervisor.start, None))

    assert "failed: RANK_PYTHON is '/nowhere/python', which cannot be run" in group.owner.next(2)[1]


def test_a_rank_that_cannot_start_is_final_unless_the_group_was_up(loop: Loop, new_group: NewGroup) -> None:
    never_up, was_up = new_group(), new_group()
    fatal = Fatal(1, "the checkpoint is broken.")

    loop.call(partial(never_up.supervisor.start, None))
    loop.call(partial(never_up.supervisor.rank_cannot_start, fatal))
    loop.call(partial(never_up.supervisor.rank_cannot_start, fatal))
    loop.call(partial(up, was_up))
    loop.call(partial(was_up.supervisor.rank_cannot_start, fatal))

    sentence = "Rank 1 cannot start: the checkpoint is broken."
    assert never_up.owner.next(3)[1:] == [f"log: {sentence}", f"failed: {sentence}"]
    assert not never_up.launcher.folder.exists()  # torchrun was ended
    assert was_up.owner.next(4) == [*UP, f"log: {sentence}"]
    for owner in (never_up.owner, was_up.owner):
        assert owner.notes.empty()


@pytest.mark.parametrize(
    ("connected", "stages", "late"),
    [
        ([], [], "rank 0, rank 1 did not start"),
        ([0], ["importing torch"], "rank 1 did not start"),
        ([0, 1], [], "rank 0, rank 1 said nothing"),
        ([0, 1], ["importing torch", "loading"], "rank 1 said nothing after 'importing torch'"),
    ],
)
def test_ranks_that_are_late_are_named(
    connected: list[int], stages: list[str], late: str, loop: Loop, new_group: NewGroup
) -> None:
    group = new_group(start_timeout=0)

    def start() -> None:  # the deadline is handled at the end of this turn
        group.supervisor.start(None)
        for rank in connected:
            group.connect(rank)
        for text in stages:
            group.supervisor.rank_progressed(Progress(0, text))
        if stages and 1 in connected:
            group.supervisor.rank_progressed(Progress(1, stages[0]))

    loop.call(start)

    sentence = f"The ranks were not ready after 0 s: {late}; if they need longer, raise START_TIMEOUT in config.pbtxt."
    assert f"log: {sentence}" in group.owner.until(f"failed: {sentence}")


def test_a_group_that_was_up_is_started_again_when_the_next_start_is_late(loop: Loop, new_group: NewGroup) -> None:
    group = new_group(start_timeout=0)
    loop.call(partial(up, group))
    assert group.owner.next(3) == UP

    def die_and_connect() -> None:
        group.kill(1)
        for rank in range(2):
            group.connect(rank, attempt=1)

    loop.call(die_and_connect)

    group.owner.until("lost: Rank 1 of the model died; the ranks are being started again.")
    sentence = "The ranks were not ready after 0 s: rank 0, rank 1 said nothing; the group is started again."
    group.owner.until(f"log: {sentence}")
    assert [group.processes[rank, 1].wait(60) for rank in range(2)] == [-9, -9]
    group.owner.until("lost: Rank ")


def test_stopping_ends_torchrun(loop: Loop, new_group: NewGroup, tmp_path: Path) -> None:
    started = tmp_path / "started"
    os.mkfifo(started)
    group = new_group(f"import os\nwith open({str(started)!r}, 'w') as file: file.write(str(os.getpid()))\n{WAITS}")
    loop.call(partial(up, group))
    torchrun = Path("/proc", started.read_text())
    assert torchrun.exists()

    loop.call(group.supervisor.stop)

    assert not torchrun.exists()
    assert not group.launcher.folder.exists()
