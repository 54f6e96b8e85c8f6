"""Rows of unequal lengths in batches that waste little on padding. Standard library only."""

from collections.abc import Iterator, Sequence

_SHORT = 64
"""Keys; among rows this short, padding costs less than another batch."""


def batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield the indices of rows that are padded to the longest of them; padding at most doubles a batch.

    Args:
        lengths: keys per row; rows without keys are in no batch.
        most: keys of a batch, padded, unless a single row has more.
    """
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[row]
        if length <= 0:
            continue
        if batch and (length > 2 * max(lengths[batch[0]], _SHORT) or length * (len(batch) + 1) > most):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
