from trition_repo_gen.runtime.rank.loop import topology


def member(rank: int, peers: set[int], replica: int, *, leads_replica: bool, node: str = "a") -> topology.Membership:
    return topology.Membership(rank, node, frozenset(peers), replica, leads_replica)


def test_replicas_of_a_dense_model_are_groups_of_their_own() -> None:
    groups = topology.find_groups(
        [
            member(0, {0, 1}, 0, leads_replica=True),
            member(1, {0, 1}, 0, leads_replica=False),
            member(2, {2, 3}, 1, leads_replica=True),
            member(3, {2, 3}, 1, leads_replica=False),
        ]
    )

    assert [group.ranks for group in groups] == [(0, 1), (2, 3)]
    assert [group.leader for group in groups] == [0, 2]


def test_replicas_that_share_experts_are_one_group_with_a_leader_each() -> None:
    (group,) = topology.find_groups(
        [member(0, {0, 1}, 0, leads_replica=True), member(1, {0, 1}, 1, leads_replica=True)]
    )

    assert group.replica_leaders == {0: 0, 1: 1}
    assert group.leader == 0


def test_ranks_are_connected_through_others() -> None:
    chain = [
        member(rank, {rank, min(rank + 1, 3)} | {max(rank - 1, 0)}, 0, leads_replica=rank == 0) for rank in range(4)
    ]

    assert [group.ranks for group in topology.find_groups(chain)] == [(0, 1, 2, 3)]


def test_a_group_knows_whether_it_spans_nodes() -> None:
    (group,) = topology.find_groups(
        [member(0, {0, 1}, 0, leads_replica=True), member(1, {0, 1}, 0, leads_replica=False, node="b")]
    )

    assert not group.one_node
