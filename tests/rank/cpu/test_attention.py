"""The CPU backend's calls of FlashAttention and FlashMLA compute dense attention over a paged cache."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from trition_repo_gen.runtime.rank.cpu import attention

SCALE = 0.3
CASES: dict[str, dict[str, Any]] = {
    "prefill": {"lengths": [5, 17, 8], "queries": [5, 17, 8]},
    "prefill behind a cached prefix": {"lengths": [20, 9], "queries": [6, 4]},
    "prefill of one sequence": {"lengths": [33], "queries": [33]},
    "prefill and decode together": {"lengths": [12, 30, 7, 9, 16], "queries": [12, 1, 1, 9, 1]},
    "prefill with padding": {"lengths": [12, 0, 3, 0], "queries": [12, 0, 3, 0]},
    "prefill in a window": {"lengths": [25, 14, 6], "queries": [25, 3, 1], "window": (5, 0)},
    "prefill without pages": {"lengths": [5, 17, 8], "queries": [5, 17, 8], "call": "unpaged"},
    "prefill in bfloat16": {"lengths": [9, 21], "queries": [9, 21], "dtype": torch.bfloat16},
    "decode": {"lengths": [5, 40, 8, 16], "queries": [1] * 4, "call": "decode"},
    "decode, lengths alike": {"lengths": [24] * 3, "queries": [1] * 3, "call": "decode"},
    "decode, many and far apart": {
        "lengths": [1, 3, 500, 70, 64, 65, 129, 2, 300, 17],
        "queries": [1] * 10,
        "block": 64,
        "call": "decode",
    },
    "decode with padding": {"lengths": [7, 0, 19, 0], "queries": [1] * 4, "call": "decode"},
    "decode of nothing": {"lengths": [0, 0], "queries": [1] * 2, "call": "decode"},
    "decode two tokens": {"lengths": [5, 40, 8], "queries": [2] * 3, "call": "decode"},
    "decode in a window": {"lengths": [5, 40, 8], "queries": [1] * 3, "window": (6, 0), "call": "decode"},
    "decode, a KV head per head": {"lengths": [5, 40], "queries": [1] * 2, "groups": 4, "call": "decode"},
    "decode, one KV head": {"lengths": [5, 40], "queries": [1] * 2, "groups": 1, "call": "decode"},
    "decode in bfloat16": {"lengths": [5, 40], "queries": [1] * 2, "dtype": torch.bfloat16, "call": "decode"},
    "decode latents": {"lengths": [5, 0, 40, 8], "queries": [1] * 4, "value_size": 10, "groups": 1, "call": "mla"},
    "decode two latents": {"lengths": [5, 40], "queries": [2] * 2, "value_size": 10, "groups": 1, "call": "mla"},
}


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Random sequences whose keys and values are in a paged cache."""

    lengths: list[int]
    """Keys of each sequence."""
    queries: list[int]
    """Queries of each sequence, which are its last tokens."""
    heads: int = 4
    groups: int = 2
    size: int = 16
    value_size: int | None = None
    """Where the cache holds latents: how much of each is the value as well."""
    block: int = 8
    window: tuple[int, int] = (-1, -1)
    call: str = "varlen"
    dtype: torch.dtype = torch.float32

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape).to(self.dtype)

    @property
    def latents(self) -> bool:
        return self.call == "mla"

    def sequences(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return each sequence's queries, keys and values: [tokens, heads or groups, size]."""
        made = []
        for length, queries in zip(self.lengths, self.queries, strict=True):
            k = self.random(length, 1 if self.latents else self.groups, self.size)
            v = k[..., : self.value_size] if self.latents else self.random(length, self.groups, self.size)
            made.append((self.random(queries, self.heads, self.size), k, v))
        return made

    def paged(self, sequences: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Return a cache, [2, blocks, block, groups, size], and each sequence's blocks, [sequences, blocks].

        The blocks are in a shuffled order, entries beyond a sequence's own are -1, and slots that were never written
        hold NaN.
        """
        used = [-(-length // self.block) for length in self.lengths]
        shuffled = (torch.randperm(sum(used)) + 1).tolist()
        table = torch.full((len(self.lengths), max(used) + 1), -1, dtype=torch.int32)
        shape = (2, sum(used) + 1, self.block, 1 if self.latents else self.groups, self.size)
        cache = torch.full(shape, float("nan"), dtype=self.dtype)
        for sequence, (_, k, v) in enumerate(sequences):
            for index in range(used[sequence]):
                table[sequence, index] = shuffled.pop()
                part = slice(index * self.block, min(self.lengths[sequence], (index + 1) * self.block))
                cache[0, table[sequence, index], : part.stop - part.start] = k[part]
                if not self.latents:
                    cache[1, table[sequence, index], : part.stop - part.start] = v[part]
        return cache, table


def attend(batch: Batch, sequences: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Call the backend; return its output when log-sum-exps are asked for and when not, and the log-sum-exps.

    They are [queries of all sequences, heads, value size], the same, and [heads, queries of all sequences].
    """
    cache, table = batch.paged(sequences)
    q = torch.cat([sequence[0] for sequence in sequences])
    starts = torch.tensor([0, *batch.queries]).cumsum(0).int()
    key_starts = torch.tensor([0, *batch.lengths]).cumsum(0).int()
    options: dict[str, Any] = {"softmax_scale": SCALE, "causal": True, "window_size": batch.window}
    if batch.call in ("varlen", "unpaged"):
        if batch.call == "varlen":
            keys, values = cache
            options["block_table"] = table
            longest = (max(batch.queries), max(batch.lengths))
        else:
            keys, values = (torch.cat([sequence[i] for sequence in sequences]) for i in (1, 2))
            longest = (0, 0)
        arguments = (q, keys, values, starts, key_starts, *longest)
        out, lse, _ = attention.flash_attn_varlen_func(*arguments, **options, return_attn_probs=True)
        return out, attention.flash_attn_varlen_func(*arguments, **options), lse
    in_use = torch.tensor(batch.lengths, dtype=torch.int32)
    batched = q.view(len(batch.lengths), batch.queries[0], batch.heads, batch.size)
    if batch.latents:
        assert batch.value_size is not None
        out, lse = attention.flash_mla_with_kvcache(
            batched, cache[0], table, in_use, batch.value_size, None, None, softmax_scale=SCALE, causal=True
        )
        plain = out
    else:
        keys, values = cache
        options |= {"cache_seqlens": in_use, "block_table": table}
        out, lse = attention.flash_attn_with_kvcache(batched, keys, values, **options, return_softmax_lse=True)
        plain = attention.flash_attn_with_kvcache(batched, keys, values, **options)
    return out.flatten(0, 1), plain.flatten(0, 1), lse.transpose(0, 1).flatten(1)


def dense(q: Tensor, k: Tensor, v: Tensor, window: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Attend for one sequence, causally, in double precision, pair by pair of query and head."""
    queries, heads, _ = q.shape
    keys, groups = k.shape[:2]
    out, lse = torch.zeros(queries, heads, v.shape[-1], dtype=torch.float64), torch.zeros(heads, queries).double()
    for i in range(queries):
        position = keys - queries + i
        first = 0 if window[0] < 0 else max(0, position - window[0])
        for head in range(heads):
            group = head * groups // heads
            scores = k[first : position + 1, group].double() @ q[i, head].double() * SCALE
            lse[head, i] = torch.logsumexp(scores, 0)
            out[i, head] = torch.softmax(scores, 0) @ v[first : position + 1, group].double()
    return out, lse


@pytest.mark.parametrize("case", CASES)
def test_paged_attention_equals_dense(case: str) -> None:
    batch = Batch(**CASES[case])
    sequences = batch.sequences()

    out, plain, lse = attend(batch, sequences)

    tolerance = 2e-2 if batch.dtype is torch.bfloat16 else 3e-6
    begin = 0
    for (q, k, v), length in zip(sequences, batch.lengths, strict=True):
        part = slice(begin, begin := begin + len(q))
        if length == 0:  # what pads a batch has no keys, and its output is zero
            assert float(out[part].abs().sum() + plain[part].abs().sum()) == 0
            continue
        expected, expected_lse = dense(q, k, v, batch.window)
        for got, target in ((out[part], expected), (plain[part], expected), (lse[:, part], expected_lse)):
            assert not got.numel() or float((got.double() - target).abs().max()) < tolerance
