"""Attention between dense queries and keys, with the masks that serving needs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

NO_WINDOW = (-1, -1)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None,
    causal: bool,
    window: tuple[int, int],
    lengths: Tensor | None,
    with_lse: bool,
    seen: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Attend from `q` to `k` and `v`, all dense.

    Args:
        q: (batch, queries, heads, head size).
        k: (batch, keys, KV heads, head size).
        v: (batch, keys, KV heads, value head size).
        scale: default head size ** -0.5.
        causal: whether queries see no later keys.
        window: keys visible to the left and to the right of a query; -1 is all.
        lengths: (batch,) how many of the keys are in use, or None for all. All must be positive.
        with_lse: whether the log-sum-exp is wanted.
        seen: bool, broadcastable to (batch, 1, queries, keys): a further mask, False where a key is hidden.

    Returns:
        (batch, queries, heads, value head size) in the dtype of `q`, and (batch, heads, queries) float32 or None.
    """
    (batch, queries, heads, _), keys, groups = q.shape, k.shape[1], k.shape[2]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    mask: Tensor | None = None
    by_flag = causal and queries > 1 and queries == keys and not with_lse and seen is None
    if lengths is not None or window != NO_WINDOW or (causal and queries > 1 and not by_flag):
        mask, by_flag = _mask(queries, keys, causal, window, lengths), False
    if seen is not None:
        mask = seen if mask is None else mask & seen
    if queries == 1 and not with_lse and (seen is None or seen.shape[1] == 1):
        # The heads that share a KV head are queries with the same view: a batched product without repeated keys.
        folded = q.view(batch, groups, heads // groups, -1)
        out = functional.scaled_dot_product_attention(
            folded, k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, scale=scale
        )
        return out.reshape(batch, 1, heads, -1), None
    if not with_lse:
        out = functional.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=mask,
            is_causal=by_flag,
            scale=scale,
            enable_gqa=heads != groups,
        )
        return out.transpose(1, 2), None
    grouped = q.float().view(batch, queries, groups, heads // groups, -1)
    scores = torch.einsum("bqgrd,bkgd->bgrqk", grouped, k.float()) * scale
    if mask is not None:
        scores = scores.masked_fill(~mask.unsqueeze(1), float("-inf"))
    lse = torch.logsumexp(scores, -1)
    out = torch.einsum("bgrqk,bkgd->bqgrd", torch.exp(scores - lse.unsqueeze(-1)), v.float())
    return out.reshape(batch, queries, heads, -1).to(q.dtype), lse.reshape(batch, heads, queries)


def _mask(queries: int, keys: int, causal: bool, window: tuple[int, int], lengths: Tensor | None) -> Tensor:
    """Return which keys a query sees: (batch or 1, 1, queries, keys) bool."""
    in_use = torch.tensor([keys]) if lengths is None else lengths
    key = torch.arange(keys)
    query = torch.arange(queries) + (in_use - queries)[:, None]  # a query's position among its sequence's keys
    seen = (key < in_use[:, None])[:, None]
    distance = key - query[..., None]
    left, right = window
    if causal:
        right = 0 if right < 0 else min(right, 0)
    if left >= 0:
        seen = seen & (distance >= -left)
    if causal or right >= 0:
        seen = seen & (distance <= right)
    return seen[:, None]
