"""The largest number of each row: a kernel, interpreted, against torch."""

import pytest
import torch

from trition_repo_gen.runtime.rank.engines.kernels import argmax


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("columns", [1, 5000])
@pytest.mark.parametrize("programs", [1, 1056])
def test_argmax(rows: int, columns: int, programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are no contiguous tensor, whose largest number is there more than once, and rows that have none."""
    monkeypatch.setattr(argmax, "_PROGRAMS", programs)
    x = torch.randn(rows, columns + 3)[:, :columns].bfloat16()
    for row in range(rows):
        x[row, torch.randperm(columns)[:3]] = 7.0
    for numbers in (x, torch.full((rows, columns), float("-inf"))):
        assert torch.equal(argmax.argmax(numbers).long(), numbers.float().argmax(dim=-1))
