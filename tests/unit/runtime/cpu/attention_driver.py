"""Runs the paged attention calls of the CPU backend beside a dense one; run by test_attention.py.

Usage: python attention_driver.py PACKAGE_FOLDER CASES, where CASES is a JSON list of keyword arguments for `compare`.
"""

import json
import sys
from typing import Any

import torch


def dense(q: Any, k: Any, v: Any, scale: float, window: tuple[int, int]) -> tuple[Any, Any]:
    """Attend for one sequence, causally, in double precision, pair by pair of query and head."""
    queries, heads, _ = q.shape
    keys, groups = k.shape[:2]
    out, lse = torch.zeros(queries, heads, v.shape[-1], dtype=torch.float64), torch.zeros(heads, queries).double()
    for i in range(queries):
        position = keys - queries + i
        first = 0 if window[0] < 0 else max(0, position - window[0])
        for head in range(heads):
            group = head * groups // heads
            scores = k[first : position + 1, group].double() @ q[i, head].double() * scale
            lse[head, i] = torch.logsumexp(scores, 0)
            out[i, head] = torch.softmax(scores, 0) @ v[first : position + 1, group].double()
    return out, lse


def compare(
    lengths: list[int],
    queries: list[int],
    heads: int = 4,
    groups: int = 2,
    size: int = 16,
    value_size: int | None = None,
    block: int = 8,
    window: tuple[int, int] = (-1, -1),
    call: str = "varlen",
    dtype: str = "float32",
    unwritten: float = float("nan"),
) -> dict[str, float]:
    """Return the largest differences in the output and in the log-sum-exp, and whether rows without keys are zero."""
    from runtime.rank.cpu import attention

    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator).to(getattr(torch, dtype))

    latents = call == "mla"
    used = [-(-length // block) for length in lengths]
    # Blocks in a shuffled order, entries beyond a row's own are -1, and slots that were never written hold `unwritten`.
    shuffled = (torch.randperm(sum(used), generator=generator) + 1).tolist()
    table = torch.full((len(lengths), max(used) + 1), -1, dtype=torch.int32)
    cache = torch.full((2, sum(used) + 1, block, 1 if latents else groups, size), unwritten).to(getattr(torch, dtype))
    rows = []
    for row, length in enumerate(lengths):
        k = random(length, cache.shape[3], size)
        v = k[..., :value_size] if latents else random(length, groups, size)
        for index in range(used[row]):
            table[row, index] = shuffled.pop()
            part = slice(index * block, min(length, (index + 1) * block))
            cache[0, table[row, index], : part.stop - part.start] = k[part]
            if not latents:
                cache[1, table[row, index], : part.stop - part.start] = v[part]
        rows.append((random(queries[row], heads, size), k, v))
    q = torch.cat([row[0] for row in rows])
    scale, in_use = 0.3, torch.tensor(lengths, dtype=torch.int32)
    starts = torch.tensor([0, *queries]).cumsum(0).int()
    key_starts = torch.tensor([0, *lengths]).cumsum(0).int()
    if call == "varlen":
        options: dict[str, Any] = {"softmax_scale": scale, "causal": True, "window_size": tuple(window)}
        arguments = (q, cache[0], cache[1], starts, key_starts, max(queries), max(lengths))
        out, lse, _ = attention.flash_attn_varlen_func(*arguments, **options, block_table=table, return_attn_probs=True)
        plain = attention.flash_attn_varlen_func(*arguments, **options, block_table=table)
    elif call == "unpaged":
        options = {"softmax_scale": scale, "causal": True, "window_size": tuple(window)}
        arguments = (q, *(torch.cat([row[i] for row in rows]) for i in (1, 2)), starts, key_starts, 0, 0)
        out, lse, _ = attention.flash_attn_varlen_func(*arguments, **options, return_attn_probs=True)
        plain = attention.flash_attn_varlen_func(*arguments, **options)
    else:
        batched = q.view(len(lengths), queries[0], heads, size)
        if latents:
            out, lse = attention.flash_mla_with_kvcache(
                batched, cache[0], table, in_use, value_size, None, None, softmax_scale=scale, causal=True
            )
            plain = out
        else:
            named = {"cache_seqlens": in_use, "block_table": table, "softmax_scale": scale, "causal": True}
            named["window_size"] = tuple(window)
            arguments = (batched, cache[0], cache[1])
            out, lse = attention.flash_attn_with_kvcache(*arguments, **named, return_softmax_lse=True)
            plain = attention.flash_attn_with_kvcache(*arguments, **named)
        out, plain = out.flatten(0, 1), plain.flatten(0, 1)
        lse = lse.transpose(0, 1).flatten(1)
    worst = {"out": 0.0, "plain": 0.0, "lse": 0.0, "empty": 0.0}
    for row, (own, k, v) in enumerate(rows):
        part = slice(int(starts[row]), int(starts[row + 1]))
        if lengths[row] == 0:
            worst["empty"] = max(worst["empty"], float(out[part].abs().sum() + plain[part].abs().sum()))
            continue
        wanted, wanted_lse = dense(own, k, v, scale, tuple(window))
        for name, got, target in (
            ("out", out[part], wanted),
            ("plain", plain[part], wanted),
            ("lse", lse[:, part], wanted_lse),
        ):
            difference = (got.double() - target).abs().max() if got.numel() else torch.tensor(0.0)
            worst[name] = max(worst[name], float(torch.nan_to_num(difference, nan=1e9)))
    return worst


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    print(json.dumps([compare(**case) for case in json.loads(sys.argv[2])]))
