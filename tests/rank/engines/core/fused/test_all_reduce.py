"""Sums over tensor-parallel ranks by each rank writing into the others' inboxes, interpreted; one rank runs."""

import pytest
import torch
from torch.nn import functional

from tests.rank.engines.core.fused.plain_torch import EPS, TOLERANCE, rounding_errors, whole_numbers
from trition_repo_gen.runtime.rank.engines.core.fused.all_reduce import Exchange

COLUMNS, INNER = 48, 512
ROWS_OF_A_PLACE = 64


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("rows", [1, 3])
def test_add_and_norm(rank: int, ranks: int, place: int, rows: int) -> None:
    """Two uses of a place: what the other ranks sent, and what they get, stamped with the number of the use.

    Products of one row are sent by another kernel than those of several.
    """
    inboxes = torch.zeros(ranks, 3 * ROWS_OF_A_PLACE, ranks, COLUMNS // 2, dtype=torch.int64)
    exchange = Exchange(rank, inboxes[rank], torch.tensor([inbox.data_ptr() for inbox in inboxes]))
    here = slice(ROWS_OF_A_PLACE * place, ROWS_OF_A_PLACE * place + rows)
    others = [peer for peer in range(ranks) if peer != rank]
    for use in (1, 2):
        xs, weights = whole_numbers(ranks, rows, INNER), whole_numbers(ranks, COLUMNS, INNER)
        parts = torch.stack([x @ weight.t() for x, weight in zip(xs, weights, strict=True)])
        for peer in others:
            inboxes[rank, here, peer] = (use << 32) | (parts[peer].view(torch.int32).long() & 0xFFFFFFFF)
        residual, norm = torch.randn(rows, COLUMNS).bfloat16(), torch.randn(COLUMNS).bfloat16()
        expected = parts.float().sum(0) + residual.float()

        exchange.leave(xs[rank], weights[rank], place)
        normed = exchange.add_and_norm(residual, norm, EPS, place)

        assert rounding_errors(residual, expected) < TOLERANCE
        expected_normed = functional.rms_norm(residual.float(), (COLUMNS,), norm.float(), EPS)
        assert rounding_errors(normed, expected_normed) < TOLERANCE
        sent = inboxes[others, here, rank]
        assert bool((sent >> 32 == use).all())
        assert bool((sent.to(torch.int32).view(torch.bfloat16) == parts[rank]).all())
