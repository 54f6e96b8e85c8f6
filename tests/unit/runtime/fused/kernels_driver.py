"""What test_kernels.py runs in the ranks' environment: Triton's kernels, interpreted, against plain torch.

Usage: python kernels_driver.py PACKAGE_FOLDER; prints the largest difference of each case.
"""

import itertools
import json
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import torch
from torch.nn import functional

EPS = 1e-5


def norms() -> float:
    """Rows whose length is no power of two."""
    from runtime.rank.engines.core.fused.kernels import rms_norm

    x, weight = torch.randn(3, 48), torch.randn(48)
    return float((rms_norm(x, weight, EPS) - functional.rms_norm(x, (48,), weight, EPS)).abs().max())


def activations() -> float:
    """Rows of more than one block."""
    from runtime.rank.engines.core.fused.kernels import silu_mul

    x = torch.randn(2, 2 * 1500)
    gate, value = x.chunk(2, dim=-1)
    return float((silu_mul(x) - functional.silu(gate) * value).abs().max())


def one_row(inner: int, gated: bool, normed: bool) -> float:
    """Products of one row with a norm, a gate, a bias, a place for the result, and an addition to a residual stream."""
    from runtime.rank.engines.core.fused import one_row

    columns = 12
    x, weight, norm, bias = (
        torch.randn(1, inner),
        torch.randn(columns, inner) / inner**0.5,
        torch.randn(inner),
        torch.randn(columns),
    )
    assert one_row.can_multiply(x, weight)
    expected = functional.linear(functional.rms_norm(x, (inner,), norm, EPS) if normed else x, weight)
    named = {"norm": norm, "eps": EPS} if normed else {}
    if gated:
        gate, value = expected.chunk(2, dim=-1)
        return float((one_row.gated_product(x, weight, **named) - functional.silu(gate) * value).abs().max())
    out = torch.full((1, columns), float("nan"))
    worst = float((one_row.product(x, weight, bias=bias, out=out, **named) - expected - bias).abs().max())
    worst = larger(worst, float((one_row.product(x, weight, **named) - out + bias).abs().max()))
    if not normed:
        residual = torch.randn(1, columns)
        before = residual.clone()
        apart = one_row.add_product(residual, x, weight, in_place=False)
        worst = larger(worst, float((residual - before).abs().max()), float((apart - before - expected).abs().max()))
        one_row.add_product(residual, x, weight, in_place=True)
        worst = larger(worst, float((residual - apart).abs().max()))
    return worst


def gates() -> float:
    """Where quack or its GPU is missing, a product and a kernel for the gate."""
    from runtime.rank.engines.core.fused.gate import GatedProduct

    x, weight = torch.randn(3, 64), torch.randn(256, 64) / 8
    gate, value = functional.linear(x, weight).chunk(2, dim=-1)
    return float((GatedProduct(weight)(x, weight) - functional.silu(gate) * value).abs().max())


def rotations(heads: int, rotated: int, normed: bool) -> float:
    """Two groups, a head size that is no power of two, a paged cache whose other places must not change."""
    from runtime.rank.engines.core.fused.kernels import Places, RotaryParameters, rotate_and_store

    groups, size, tokens = 2, 24, 5
    mixed = torch.randn(tokens, groups * (heads + 2) * size)
    cache = torch.randn(2, 4, 8, groups, size)
    before = cache.clone()
    blocks, slots = torch.tensor([3, 3, 0, 1, 1], dtype=torch.int32), torch.tensor([6, 7, 0, 2, 5])
    positions = torch.tensor([6, 7, 30, 2, 11])
    angles = torch.randn(32, rotated // 2)
    table = torch.cat((angles.cos(), angles.sin()), dim=-1) if rotated else None
    weights = (torch.randn(size), torch.randn(size)) if normed else (None, None)
    rotary = RotaryParameters(table, *weights, EPS)
    query = rotate_and_store(mixed, groups, cache[0], cache[1], Places(blocks, slots, positions), rotary)

    queries, key, value = turned_apart(mixed, groups, size, angles[positions], *weights)
    before[0, blocks.long(), slots] = key
    before[1, blocks.long(), slots] = value
    expected = queries.reshape(tokens, 1, groups * heads, size)
    return larger(float((query - expected).abs().max()), float((cache - before).abs().max()))


def decoding(heads: int, window: int, programs: int, rotated: int) -> float:
    """Rows of no token, one, several tiles and blocks, whose blocks lie anywhere in the cache."""
    from runtime.rank.engines.core.fused import decoding
    from runtime.rank.engines.core.fused.kernels import Places, RotaryParameters

    decoding._PROGRAMS = programs
    groups, size, lengths = 2, 32, [0, 1, 2, 64, 65, 66, 300]
    cache = torch.randn(2, 19, 128, groups, size)
    table = torch.randperm(18)[: 2 * len(lengths)].view(-1, 2).to(torch.int32)
    third = torch.full((len(lengths), 1), -1, dtype=torch.int32)
    third[-1] = 18
    table = torch.cat((table, third), dim=1)
    mixed = torch.randn(len(lengths), groups * (heads + 2) * size)
    positions = torch.tensor([max(0, length - 1) for length in lengths])
    blocks, slots = table.gather(1, positions[:, None] // 128)[:, 0], positions % 128
    angles = torch.randn(300, rotated // 2)
    # Heads are rotated or normed here, so that a case for each is enough.
    weights = (None, None) if rotated else (torch.randn(size), torch.randn(size))
    rotary = RotaryParameters(torch.cat((angles.cos(), angles.sin()), dim=-1) if rotated else None, *weights, EPS)
    queries, key, value = turned_apart(mixed, groups, size, angles[positions], *weights)
    after = cache.clone()
    after[0, blocks.long(), slots] = key
    after[1, blocks.long(), slots] = value
    cache[:, blocks.long(), slots] = float("nan")  # the newest token is not looked for there
    out = decoding.decode(
        mixed,
        groups,
        cache[0],
        cache[1],
        Places(blocks, slots, positions),
        rotary,
        table,
        torch.tensor(lengths, dtype=torch.int32),
        0.2,
        window,
    )
    worst = larger(float((cache - after).abs().max()), float(out[0].abs().max()))  # the first row is without a token
    for row, length in list(enumerate(lengths))[1:]:
        keys, values = (part[table[row].long()].flatten(0, 1)[:length] for part in after)
        oldest = max(0, length - 1 - window) if window >= 0 else 0
        for head in range(groups * heads):
            group = head // heads
            scores = keys[oldest:, group] @ queries[row, group, head % heads] * 0.2
            expected = scores.softmax(dim=0) @ values[oldest:, group]
            worst = larger(worst, float((out[row, 0, head] - expected).abs().max()))
    return worst


def largest(rows: int, columns: int, programs: int) -> float:
    """Rows that lie apart, whose largest number is there more than once, and rows that have none."""
    from runtime.rank.engines.kernels import argmax

    argmax._PROGRAMS = programs
    x = torch.randn(rows, columns + 3)[:, :columns].bfloat16()
    for row in range(rows):
        x[row, torch.randperm(columns)[:3]] = 7.0
    nothing = torch.full((rows, columns), float("-inf"))
    return larger(*(float((argmax.argmax(each) != each.float().argmax(dim=-1)).any()) for each in (x, nothing)))


def sums(rank: int, ranks: int, place: int, rows: int) -> float:
    """Two uses of a place: what the other ranks sent, and what they get, stamped with the number of the use.

    Products of one row are sent by another kernel. Small whole numbers are the same in whatever order they are added.
    """
    from runtime.rank.engines.core.fused.all_reduce import Exchange

    columns, inner, slots = 48, 512, 3 * 64
    inboxes = torch.zeros(ranks, slots, ranks, columns // 2, dtype=torch.int64)
    addresses = torch.tensor([inbox.data_ptr() for inbox in inboxes])
    exchange = Exchange(rank, inboxes[rank], addresses)
    here = slice(64 * place, 64 * place + rows)
    worst = 0.0
    for use in (1, 2):
        xs, weights = whole_numbers(ranks, rows, inner), whole_numbers(ranks, columns, inner)
        parts = torch.stack([x @ weight.t() for x, weight in zip(xs, weights, strict=True)])
        others = [peer for peer in range(ranks) if peer != rank]
        for peer in others:
            inboxes[rank, here, peer] = (use << 32) | (parts[peer].view(torch.int32).long() & 0xFFFFFFFF)
        residual, norm = torch.randn(rows, columns).bfloat16(), torch.randn(columns).bfloat16()
        expected = parts.float().sum(0) + residual.float()
        exchange.leave(xs[rank], weights[rank], place)
        normed = exchange.add_and_norm(residual, norm, EPS, place)
        worst = larger(worst, steps(residual, expected))
        worst = larger(worst, steps(normed, functional.rms_norm(residual.float(), (columns,), norm.float(), EPS)))
        sent = inboxes[others, here, rank]
        worst = larger(worst, float((sent >> 32 != use).any()))
        worst = larger(worst, float((sent.to(torch.int32).view(torch.bfloat16) != parts[rank]).any()))
    return worst


def larger(*differences: float) -> float:
    """Return the largest, or NaN if one is: Python's `max` would pass over it."""
    return float(torch.tensor(differences).max())


def whole_numbers(*shape: int) -> torch.Tensor:
    """Return numbers whose products' sums are exact in bfloat16."""
    return torch.randint(-1, 2, shape).bfloat16()


def steps(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Return by how much rounding to bfloat16 cannot explain a difference, over what it can."""
    return float(((got.float() - expected).abs() / (expected.abs() * 2**-7 + 1e-6) - 1).max().clamp(min=0))


def turned_apart(
    mixed: torch.Tensor,
    groups: int,
    size: int,
    angles: torch.Tensor,
    query_norm: torch.Tensor | None,
    key_norm: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return queries, [tokens, groups, heads, size], keys and values, [tokens, groups, size]."""
    parts = mixed.view(mixed.shape[0], groups, -1, size)
    queries, key, value = parts[:, :, :-2], parts[:, :, -2:-1], parts[:, :, -1]
    if query_norm is not None and key_norm is not None:
        queries = functional.rms_norm(queries, (size,), query_norm, EPS)
        key = functional.rms_norm(key, (size,), key_norm, EPS)
    queries, key = (turn(x, angles[:, None, None]) for x in (queries, key))
    return queries, key[:, :, 0], value


def turn(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Rotate the first halves and the second halves of what the angles cover."""
    half = angles.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cosine, sine = angles.cos(), angles.sin()
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine, rest), dim=-1)


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    torch.manual_seed(0)
    outcome = {"norms": norms(), "activations": activations(), "gates": gates()}
    for case in itertools.product((512, 3072), (False, True), (False, True)):
        outcome[f"one row {case}"] = one_row(*case)
    for case in itertools.product((1, 3, 4), (24, 16, 0), (False, True)):
        outcome[f"rotations {case}"] = rotations(*case)
    for case in itertools.product((1, 3), (1, 5000), (1, 1056)):
        outcome[f"largest {case}"] = largest(*case)
    for case in itertools.product((1, 4), (-1, 0, 70), (1, 264), (0, 32, 16)):
        outcome[f"decoding {case}"] = decoding(*case)
    for case in itertools.product((0, 1), (2, 3), (0, 2), (1, 3)):
        outcome[f"sums {case}"] = sums(*case)
    print(json.dumps(outcome))
