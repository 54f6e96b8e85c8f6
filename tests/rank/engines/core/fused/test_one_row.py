"""Products of one row, interpreted: with a norm, a gate, a bias, a place for the result, added to a residual stream."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.rank.engines.core.fused.plain_torch import EPS, TOLERANCE, distance
from trition_repo_gen.runtime.rank.engines.core.fused import one_row

COLUMNS = 12

each_size = pytest.mark.parametrize("inner", [512, 3072])
with_and_without_norm = pytest.mark.parametrize("normed", [False, True])


class Case:
    """A row, weights, and the expected product, with a norm before it or without."""

    def __init__(self, inner: int, normed: bool) -> None:
        self.x, self.weight, self.norm = torch.randn(1, inner), torch.randn(COLUMNS, inner) / inner**0.5, None
        normed_x = self.x
        if normed:
            self.norm = torch.randn(inner)
            normed_x = functional.rms_norm(self.x, (inner,), self.norm, EPS)
        assert one_row.can_multiply(self.x, self.weight)
        self.expected: Tensor = functional.linear(normed_x, self.weight)

    @property
    def norm_arguments(self) -> dict[str, Any]:
        return {} if self.norm is None else {"norm": self.norm, "eps": EPS}


@each_size
@with_and_without_norm
def test_gated_product(inner: int, normed: bool) -> None:
    case = Case(inner, normed)
    gate, value = case.expected.chunk(2, dim=-1)
    product = one_row.gated_product(case.x, case.weight, **case.norm_arguments)
    assert distance(product, functional.silu(gate) * value) < TOLERANCE


@each_size
@with_and_without_norm
def test_product(inner: int, normed: bool) -> None:
    case = Case(inner, normed)
    bias, out = torch.randn(COLUMNS), torch.full((1, COLUMNS), float("nan"))
    product = one_row.product(case.x, case.weight, bias=bias, out=out, **case.norm_arguments)
    assert distance(product, case.expected + bias) < TOLERANCE
    assert distance(out, case.expected + bias) < TOLERANCE
    assert distance(one_row.product(case.x, case.weight, **case.norm_arguments), case.expected) < TOLERANCE


@each_size
def test_add_product(inner: int) -> None:
    case = Case(inner, normed=False)
    residual = torch.randn(1, COLUMNS)
    before = residual.clone()
    apart = one_row.add_product(residual, case.x, case.weight, in_place=False)
    assert distance(residual, before) < TOLERANCE
    assert distance(apart, before + case.expected) < TOLERANCE
    one_row.add_product(residual, case.x, case.weight, in_place=True)
    assert distance(residual, apart) < TOLERANCE
