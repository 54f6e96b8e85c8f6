"""Carry step plans from the group's leader to its ranks, and results from replica leaders back to it.

Over ZeroMQ and not a collective, so that an idle group waits in a socket: no GPU spins and no collective times out.
"""

import os
import socket as sockets
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq

from ...common.protocol import RUN_FOLDER_VARIABLE, SequenceRequest, decode, encode, register
from ...common.sockets import Socket, new_socket
from ..engines.text import Prompt
from .topology import Group


@register
@dataclass(frozen=True)
class NewSequence:
    """A sequence that joins a replica. The prompt has its text only where the answer repeats it."""

    id: int
    replica: int
    sequence: SequenceRequest
    prompt: Prompt


@register
@dataclass(frozen=True)
class StepPlan:
    """What all ranks of a group do next: take sequences in, end sequences early, run one step."""

    new_sequences: list[NewSequence] = field(default_factory=list)
    ending: list[int] = field(default_factory=list)
    step: bool = False


@register
@dataclass(frozen=True)
class EndSequence:
    """A sequence reached a stop word: the leader has to end it on all ranks."""

    id: int


@register
@dataclass(frozen=True)
class Dropped:
    """A cancelled sequence ended before it ran; no answer is sent."""

    id: int


class StepBroadcast:
    """This rank's sockets to its group. Collective: all ranks of the world construct it at the same time."""

    def __init__(self, group: Group, rank: int):
        import torch.distributed as dist

        self.is_leader = rank == group.leader
        followers = len(group.ranks) - 1
        addresses: list[Any] = [None] * dist.get_world_size()
        own: tuple[str, str] | None = None
        if self.is_leader and followers:
            # XPUB receives subscriptions, so that no plan is published before all followers listen.
            self._plans = new_socket(zmq.XPUB)
            self._plans.setsockopt(zmq.XPUB_VERBOSE, 1)  # also repeated ones, which all followers send
            self.reports = new_socket(zmq.PULL)
            own = (_bind(self._plans, group, "plans"), _bind(self.reports, group, "reports"))
        dist.all_gather_object(addresses, own)
        if self.is_leader:
            for _ in range(followers):
                self._plans.recv()
        else:
            plans, reports = addresses[group.leader]
            self._plans = new_socket(zmq.SUB)
            self._plans.connect(plans)
            self._plans.subscribe(b"")
            self.reports = new_socket(zmq.PUSH)
            self.reports.connect(reports)
        self._alone = followers == 0

    def publish(self, plan: StepPlan) -> None:
        """Leader only: send the next plan to the followers."""
        if not self._alone:
            self._plans.send(encode(plan))

    def receive(self) -> StepPlan:
        """Followers only: wait for the next plan."""
        plan: StepPlan = decode(self._plans.recv())
        return plan

    def report(self, messages: list[Any]) -> None:
        """Replica leaders other than the group's leader: send results to it."""
        self.reports.send(encode(messages))

    def read_reports(self) -> list[Any]:
        """Leader only: return what the replica leaders reported since the last call."""
        messages: list[Any] = []
        while not self._alone:
            try:
                messages += decode(self.reports.recv(zmq.NOBLOCK))
            except zmq.Again:
                break
        return messages


def _bind(socket: Socket, group: Group, purpose: str) -> str:
    if group.one_node:
        folder = Path(os.environ.get(RUN_FOLDER_VARIABLE) or tempfile.mkdtemp(prefix="trgen-"))
        address = f"ipc://{folder}/{purpose}-{group.index}-{os.getpid()}"
        socket.bind(address)
        return address
    host = f"tcp://{_own_address()}"
    return f"{host}:{socket.bind_to_random_port(host)}"


def _own_address() -> str:
    """Return this node's address on the network of the rendezvous."""
    with sockets.socket(sockets.AF_INET, sockets.SOCK_DGRAM) as probe:
        # Connecting a datagram socket sends nothing; it only chooses the route.
        probe.connect((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])))
        address: str = probe.getsockname()[0]
        return address
