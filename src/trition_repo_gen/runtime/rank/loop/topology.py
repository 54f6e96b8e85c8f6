"""Find the groups of ranks that step together, and the leader rank of each."""

import os
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Membership:
    """What one rank sends to the others about itself."""

    rank: int
    node: str
    peers: frozenset[int]
    """Ranks that it exchanges tensors with in a forward pass."""
    replica: int
    """The data-parallel index: which copy of the dense layers it belongs to."""
    leads_replica: bool
    """Whether it is the first rank of its replica in every other dimension."""


@dataclass(frozen=True)
class Group:
    """The ranks that have to step together: one replica, or all that share experts.

    Replicas of a dense model never wait for one another; with expert parallelism their MoE layers exchange tokens in
    every step.
    """

    index: int
    ranks: tuple[int, ...]
    replica_leaders: dict[int, int]
    """Replica → the rank that reports its results."""
    one_node: bool

    @property
    def leader(self) -> int:
        """The rank that takes the group's requests and decides what each step does."""
        return self.replica_leaders[min(self.replica_leaders)]


def find_groups(memberships: Iterable[Membership]) -> list[Group]:
    """Return the connected components of "exchanges tensors with", ordered by their lowest rank."""
    members = {member.rank: member for member in memberships}
    unseen = set(members)
    groups: list[Group] = []
    while unseen:
        reached = {min(unseen)}
        frontier = set(reached)
        while frontier:
            frontier = {peer for rank in frontier for peer in members[rank].peers} - reached
            reached |= frontier
        unseen -= reached
        groups.append(
            Group(
                index=len(groups),
                ranks=tuple(sorted(reached)),
                replica_leaders={members[r].replica: r for r in sorted(reached) if members[r].leads_replica},
                one_node=len({members[r].node for r in reached}) == 1,
            )
        )
    return groups


def discover() -> tuple[Group, int, int]:
    """Find this rank's group from Megatron Core's process groups. Collective: all ranks call it.

    Returns:
        this rank's group, its replica, and how many groups there are.
    """
    import torch.distributed as dist
    from megatron.core import parallel_state as mpu

    rank = dist.get_rank()
    exchanging = [
        mpu.get_tensor_model_parallel_group(),
        mpu.get_pipeline_model_parallel_group(),
        mpu.get_context_parallel_group(),
        mpu.get_expert_model_parallel_group(),
        mpu.get_expert_tensor_parallel_group(),
    ]
    own = Membership(
        rank=rank,
        node=os.environ["GROUP_RANK"],
        peers=frozenset(peer for group in exchanging for peer in dist.get_process_group_ranks(group)),
        replica=mpu.get_data_parallel_rank(),
        leads_replica=(
            mpu.get_tensor_model_parallel_rank() == 0
            and mpu.get_pipeline_model_parallel_rank() == 0
            and mpu.get_context_parallel_rank() == 0
        ),
    )
    memberships: list[Membership | None] = [None] * dist.get_world_size()
    dist.all_gather_object(memberships, own)
    groups = find_groups(member for member in memberships if member is not None)
    group = next(group for group in groups if rank in group.ranks)
    return group, own.replica, len(groups)
