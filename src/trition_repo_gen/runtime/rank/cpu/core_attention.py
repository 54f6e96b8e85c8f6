"""`TEDotProductAttention` in plain torch: attention over whole sequences.

The dynamic engine does not call it, it reads the paged cache instead (see `attention`); a plain forward does.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.utils import is_layer_window_attention, make_sharded_tensors_for_checkpoint
from megatron.core.utils import divide
from torch import Tensor

from .dense import NO_WINDOW, attend


class TEDotProductAttention(torch.nn.Module):  # type: ignore[misc]
    """Attention between all positions of a sequence. megatron-core 0.19.2, transformer_engine.py:1770.

    May be built under context parallelism, which the dynamic engine serves by letting every rank see the whole
    sequence; refuses to be called then.
    """

    def __init__(
        self,
        config: Any,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        k_channels: int | None = None,
        v_channels: int | None = None,
        num_splits: int | None = None,
        cp_comm_type: str | None = None,
        pg_collection: Any = None,
    ) -> None:
        super().__init__()
        self.config, self.attn_mask_type = config, attn_mask_type
        self.softmax_scale = softmax_scale if softmax_scale is not None else (k_channels or config.kv_channels) ** -0.5
        windowed = is_layer_window_attention(config.window_size, config.window_attn_skip_freq, layer_number)
        self.window: tuple[int, int] = config.window_size if windowed else NO_WINDOW
        self._tp_group = None if pg_collection is None else pg_collection.tp
        heads = divide(config.num_attention_heads, config.tensor_model_parallel_size)
        # The logit of a sink that takes part in the softmax and has no value; the engine reads it from here too.
        self.softmax_offset: Tensor | None
        if config.softmax_type == "learnable":
            self.softmax_offset = torch.nn.Parameter(torch.zeros(heads, dtype=config.params_dtype))
        else:
            zeros = torch.zeros(heads, dtype=config.params_dtype)
            self.softmax_offset = zeros if config.softmax_type == "off-by-one" else None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        attn_mask_type: Any = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: Any = None,
        **_: Any,
    ) -> Tensor:
        """Attend.

        Args:
            query: (queries, batch, heads, head size), or (tokens, heads, head size) when packed.
            key: (keys, batch, KV heads, head size), or packed.
            value: (keys, batch, KV heads, value head size), or packed.
            attention_mask: broadcastable to (batch, heads, queries, keys), True where a key is hidden; only read for
                the mask types `padding` and `arbitrary`.
            attn_mask_type: overrides the constructor's.
            attention_bias: not supported.
            packed_seq_params: says where the packed sequences begin.

        Returns:
            (queries, batch, heads * value head size), or (tokens, heads * value head size) when packed.

        Raises:
            NotImplementedError: context parallelism (this rank has a part of the sequence), or an attention bias.
        """
        if self.config.context_parallel_size > 1:
            raise NotImplementedError(
                "The CPU backend attends over a part of a sequence only through the paged KV cache; "
                "run the model with context_parallel_size 1, or through the dynamic engine."
            )
        if attention_bias is not None:
            raise NotImplementedError("The CPU backend has no attention bias.")
        kind = (attn_mask_type or self.attn_mask_type).name
        if packed_seq_params is not None and packed_seq_params.qkv_format == "thd":
            starts, key_starts = packed_seq_params.cu_seqlens_q.tolist(), packed_seq_params.cu_seqlens_kv.tolist()
            spans = zip(starts, starts[1:], key_starts, key_starts[1:], strict=False)
            out = [
                self._attend(query[a:b, None], key[c:d, None], value[c:d, None], kind, None)[:, 0]
                for a, b, c, d in spans
                if b > a
            ]
            return torch.cat(out)
        return self._attend(query, key, value, kind, attention_mask)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, kind: str, hidden: Tensor | None) -> Tensor:
        q, k, v = (tensor.transpose(0, 1) for tensor in (query, key, value))
        causal = "causal" in kind or (kind == "no_mask" and self.window != NO_WINDOW)
        extra = None if hidden is None or kind not in ("padding", "arbitrary") else ~hidden
        out, lse = attend(
            q, k, v, self.softmax_scale, causal, self.window, None, self.softmax_offset is not None, extra
        )
        if self.softmax_offset is not None:
            assert lse is not None
            share = torch.sigmoid(lse - self.softmax_offset.float()[None, :, None])  # of the keys, against the sink's
            out = (out * share.transpose(1, 2)[..., None]).to(out.dtype)
        return out.transpose(0, 1).reshape(query.shape[0], query.shape[1], -1)

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> Any:
        """Return the checkpoint entry of a learnable sink, split over tensor-parallel ranks; else nothing."""
        state = self.state_dict(prefix="", keep_vars=True) if self.config.softmax_type == "learnable" else {}
        groups = {"tp_group": self._tp_group, "dp_cp_group": metadata["dp_cp_group"]} if metadata else {}
        return make_sharded_tensors_for_checkpoint(state, prefix, {"softmax_offset": 0}, sharded_offsets, **groups)


TEDotProductAttention.__module__ = "megatron.core.extensions.transformer_engine"
