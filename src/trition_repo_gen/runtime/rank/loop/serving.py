"""The loop that every rank runs while it serves: receive a plan, admit sequences, run a step, report."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

from ...common.protocol import Cancel, Deltas, Done, Refused, Usage
from ..engines.api import Engine
from ..engines.text import PromptError, TextCodec
from .broadcast import Dropped, EndSequence, NewSequence, StepBroadcast, StepPlan
from .connection import RankConnection
from .intake import Intake
from .replies import Replies, is_watched
from .topology import Group

_USAGE_SECONDS = 0.5


class Leader:
    """Decides what the group does next, from the stub's messages and the results of earlier steps."""

    def __init__(
        self, group: Group, broadcast: StepBroadcast, connection: RankConnection, intake: Intake, engine: Engine
    ):
        self._broadcast = broadcast
        self._connection = connection
        self._engine = engine
        self._running: dict[int, int] = {}
        """Unfinished sequences and their replicas."""
        self._load = dict.fromkeys(group.replica_leaders, 0)
        self._ending: list[int] = []
        self._usage_reported = 0.0
        self._intake = intake
        if len(group.ranks) > 1:
            intake.also_wake_for(broadcast.reports)

    def next_plan(self) -> StepPlan:
        """Return and publish the next plan; without any sequence, wait for one."""
        new_sequences: list[NewSequence] = []
        idle = not (self._running or self._ending)
        self._report_usage(always=idle)
        arrivals = self._intake.collect(wait=idle)
        self.settle(self._broadcast.read_reports())
        for arrival in arrivals:
            if isinstance(arrival, Cancel):
                self._ending.append(arrival.id)
                continue
            request, prompt = arrival
            if isinstance(prompt, PromptError):
                self._connection.send(Refused(request.id, "INVALID_ARG", str(prompt)))
            elif sentence := self._engine.why_impossible(prompt, request.sequence):
                self._connection.send(Refused(request.id, "INVALID_ARG", sentence))
            else:
                replica = min(self._load, key=lambda index: self._load[index])
                self._running[request.id] = replica
                self._load[replica] += 1
                sequence = replace(request.sequence, prompt="", images=[])  # they are in `prompt` now
                text = prompt.text if sequence.echo else ""
                new_sequences.append(NewSequence(request.id, replica, sequence, replace(prompt, text=text)))
        ending = [request_id for request_id in self._ending if request_id in self._running]
        self._ending = []
        plan = StepPlan(new_sequences, ending, step=bool(self._running))
        if plan.new_sequences or plan.ending or plan.step:
            self._broadcast.publish(plan)
        return plan

    def _report_usage(self, *, always: bool) -> None:
        if always or time.monotonic() - self._usage_reported > _USAGE_SECONDS:
            self._usage_reported = time.monotonic()
            self._connection.send(Usage(self._engine.kv_cache_usage))

    def settle(self, reports: "Sequence[Deltas | Done | Refused | EndSequence | Dropped]") -> None:
        """Process reports: forget ended sequences, note those to end, and pass results on to the stub."""
        for report in reports:
            if isinstance(report, EndSequence):
                self._ending.append(report.id)
            elif not isinstance(report, Deltas):
                self._load[self._running.pop(report.id)] -= 1
        if results := [report for report in reports if not isinstance(report, EndSequence | Dropped)]:
            self._connection.send(results)


async def serve(
    group: Group,
    replica: int,
    rank: int,
    *,
    broadcast: StepBroadcast,
    connection: RankConnection,
    intake: Intake | None,
    codec: TextCodec,
    engine: Engine,
    eos_ids: list[int],
) -> NoReturn:
    """Serve until the process is ended. `intake` is the leader's."""
    leader = Leader(group, broadcast, connection, intake, engine) if intake is not None else None
    replies = Replies(codec, eos_ids) if rank == group.replica_leaders.get(replica) else None
    report = leader.settle if leader is not None else broadcast.report
    while True:
        plan = leader.next_plan() if leader is not None else broadcast.receive()
        for new_sequence in plan.new_sequences:
            if new_sequence.replica == replica:
                engine.add(
                    new_sequence.id, new_sequence.sequence, new_sequence.prompt, watch=is_watched(new_sequence.sequence)
                )
                if replies is not None:
                    replies.add(new_sequence)
        for request_id in plan.ending:
            if engine.finish(request_id) and replies is not None:
                replies.forget(request_id)
                report([Dropped(request_id)])
        if not plan.step:
            continue
        if not engine.has_work:
            if len(group.replica_leaders) > 1:  # replicas that share experts: other replicas may need this rank's
                engine.dummy_step()
            continue
        result = await engine.step()
        if replies is not None and (messages := replies.after_step(result)):
            report(messages)
