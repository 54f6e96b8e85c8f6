import torch

from trition_repo_gen.runtime.rank.engines.sampling.token_table import TokenTable

CPU = torch.device("cpu")


def test_slots_stay_while_the_table_grows_and_are_empty_for_the_next() -> None:
    table = TokenTable(3, torch.int32)
    for id_ in range(20):
        table.add(id_, CPU)[id_ % 3] = id_
    slots = table.slots(range(20), CPU)
    assert len(set(slots.tolist())) == 20
    assert table.values[slots].sum(-1).tolist() == list(range(20))
    table.remove(7)
    assert table.add(99, CPU).tolist() == [0, 0, 0]
    assert table.values[table.slots([19, 99, 0], CPU)].sum(-1).tolist() == [19, 0, 0]


def test_memory_is_given_back_with_the_last_sequence() -> None:
    table = TokenTable(3, torch.bool)
    for id_ in range(5):
        table.add(id_, CPU)
    for id_ in range(5):
        table.remove(id_)
    assert table.values.shape == (0, 3)
    assert table.add(0, CPU).tolist() == [False, False, False]
