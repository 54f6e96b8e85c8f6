"""Group sequences of unequal lengths into batches with little padding. Standard library only."""

from collections.abc import Iterator, Sequence

_SHORT = 64
"""Keys; for sequences up to this length, padding costs less than another batch."""


def batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield batches of sequences' indices; padding to the longest sequence at most doubles a batch.

    Args:
        lengths: keys per sequence; sequences without keys are in no batch.
        most: keys of a batch with padding, unless a single sequence has more.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[index]
        if length <= 0:
            continue
        if batch and (length > 2 * max(lengths[batch[0]], _SHORT) or length * (len(batch) + 1) > most):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
