"""Attention over the paged cache, which replaces a Megatron layer's core attention.

Megatron's attention layers project, normalise and rotate queries and keys, then call their `core_attention`. With this
one, a model class whose `forward` has no cache decodes with one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from ..batching import batches
from ..memory import GATHERED_TOKENS
from .kv_cache import KVCache


@dataclass(frozen=True)
class Span:
    """A sequence's part in a step: its tokens from `start` to `stop`, where `start` are cached already."""

    request_id: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


class Batch:
    """Which token of a step belongs to which sequence; the same for all layers.

    Args:
        spans: sequences in the order of their tokens; one that begins at 0 is a prompt, any other is one token.
        cache: of the sequences' keys and values.
        device: of the model.
    """

    def __init__(self, spans: Sequence[Span], cache: KVCache, device: torch.device):
        self.written = torch.cat([cache.places(span.request_id, span.start, span.stop) for span in spans]).to(device)
        """int64[tokens]: where each token's key and value are written."""
        self.prompts: list[slice] = []
        """Tokens of the step that attend to each other."""
        self.decoding: list[Decoding] = []
        """Tokens that attend to cached keys."""
        singles: list[Span] = []
        indices: list[int] = []
        begin = 0
        for span in spans:
            if span.start == 0:
                self.prompts.append(slice(begin, begin + len(span)))
            else:
                indices.append(begin)
                singles.append(span)
            begin += len(span)
        for batch in batches([span.stop for span in singles], GATHERED_TOKENS):
            where = torch.tensor([indices[index] for index in batch], device=device)
            self.decoding.append(Decoding.of([singles[index] for index in batch], where, cache, device))


@dataclass(frozen=True)
class Decoding:
    """Sequences with one token each, of similar lengths: copies of their keys and values are padded to the longest."""

    tokens: Tensor
    """int64[sequences]: indices among the step's tokens."""
    read: Tensor
    """int64[sequences, longest]: places of the keys that each sequence attends to, then padding."""
    visible: Tensor
    """bool[sequences, 1, 1, longest]: False for padding."""

    @classmethod
    def of(cls, spans: Sequence[Span], tokens: Tensor, cache: KVCache, device: torch.device) -> Self:
        """Return the places of the sequences' keys."""
        longest = max(span.stop for span in spans)
        read = torch.zeros(len(spans), longest, dtype=torch.int64)
        for index, span in enumerate(spans):
            read[index, : span.stop] = cache.places(span.request_id, 0, span.stop)
        lengths = torch.tensor([span.stop for span in spans])[:, None]
        visible = (torch.arange(longest) < lengths)[:, None, None]
        return cls(tokens, read.to(device), visible.to(device))


class CachedAttention(torch.nn.Module):  # type: ignore[misc]
    """One layer's attention.

    Args:
        layer: its index among this rank's layers.
        cache: memory of all layers.
        scale: factor of the dot products.
    """

    def __init__(self, layer: int, cache: KVCache, scale: float):
        super().__init__()
        self._layer = layer
        self._cache = cache
        self._scale = scale
        self.batch: Batch | None = None
        """The tokens of the next call."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        """Attend causally, each sequence to itself only.

        Args:
            query: (tokens, 1, heads, head size)
            key: (tokens, 1, KV heads, head size)
            value: as `key`.

        Returns:
            (tokens, 1, heads * head size)
        """
        batch = self.batch
        assert batch is not None
        q, k, v = (tensor.squeeze(1) for tensor in (query, key, value))
        keys, values = self._cache.keys[self._layer], self._cache.values[self._layer]
        keys[batch.written], values[batch.written] = k, v
        out = torch.empty_like(q)
        for prompt in batch.prompts:
            out[prompt] = self._within(q[prompt], k[prompt], v[prompt])
        for sequences in batch.decoding:
            out[sequences.tokens] = self._to_cached(
                q[sequences.tokens], keys[sequences.read], values[sequences.read], sequences.visible
            )
        return out.flatten(1).unsqueeze(1)

    def _within(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Let a whole prompt attend to itself: (tokens, heads, size) each."""
        q, k, v = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (q, k, v))
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self._scale, enable_gqa=True)
        return out[0].transpose(0, 1)

    def _to_cached(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
        """Attend from each newest token to its sequence.

        Args:
            q: (sequences, heads, size)
            k: (sequences, longest, KV heads, size)
            v: as `k`.
            visible: bool (sequences, 1, 1, longest)
        """
        sequences, heads, size = q.shape
        # Query heads that share a KV head take the dimension of queries: no KV head is repeated.
        grouped = q.view(sequences, k.shape[2], heads // k.shape[2], size)
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        out = functional.scaled_dot_product_attention(grouped, k, v, attn_mask=visible, scale=self._scale)
        return out.reshape(sequences, heads, size)
