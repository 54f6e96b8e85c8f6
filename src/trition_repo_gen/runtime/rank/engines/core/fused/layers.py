"""Compute the two halves of a Megatron transformer layer from the same weights in fewer kernels.

A decoding step of an 8B Llama with one sequence spends a third of its time in small kernels: Megatron Core 0.19 applies
rotary embeddings in 24 of them per layer. Here a half layer is a norm, its matrix products and one or two kernels
between them; the last product adds to the residual stream in place. With tensor parallelism and few tokens, a half
layer leaves its part of that product to the next half, whose norm kernel adds up the ranks' parts. Transformer Engine's
modules are not called, which also saves their time on the host in steps without a CUDA graph.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from megatron.core.extensions import transformer_engine
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.transformer.attention import SelfAttention, is_layer_window_attention
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.transformer_layer import MoETransformerLayer, TransformerLayer
from torch import Tensor
from torch.nn import functional

from . import one_row
from .all_reduce import AllReduce, Exchange
from .decoding import can_decode, decode
from .gate import GatedProduct
from .kernels import Places, RotaryParameters, rms_norm, rotate_and_store

_NEEDED: dict[str, tuple[Any, ...]] = {
    "normalization": ("RMSNorm",),
    "layernorm_zero_centered_gamma": (False,),
    "add_bias_linear": (False,),
    "apply_residual_connection_post_layernorm": (False,),
    "attention_output_gate": (False, None),
    "fp32_residual_connection": (False,),
    "fp8": (None, False),
    "fp4": (None, False),
    "multi_latent_attention": (False,),
    "qk_l2_norm": (False,),
    "rotary_interleaved": (False,),
    "sequence_parallel": (False,),
}
"""Accepted values of the model's configuration; an attribute that it lacks counts as accepted."""


def fuse(model: torch.nn.Module, max_sequence_length: int) -> tuple[int, int]:
    """Replace the forward pass of every half layer that can be computed here, in place.

    Args:
        model: this rank's part of a `GPTModel` in eval mode, on its device.
        max_sequence_length: number of positions.

    Returns:
        the numbers of attention halves and of MLP halves that are fused.
    """
    while hasattr(model, "module"):  # Float16Module and the like
        model = model.module
    config = model.config
    layers = getattr(getattr(model, "decoder", None), "layers", [])
    if not _plain(config) or type(getattr(model, "rotary_pos_emb", None)) is not RotaryEmbedding:
        return 0, 0
    device = next(model.parameters()).device
    table = _rotations(model.rotary_pos_emb, max_sequence_length).to(device)
    order: list[_Half | None] = []
    all_reduce: AllReduce | None = None
    gated_product: GatedProduct | None = None
    for index, layer in enumerate(layers):
        halves: list[_Half | None] = [None, None]
        if type(layer) in (TransformerLayer, MoETransformerLayer):
            group = layer.pg_collection.tp
            all_reduce = all_reduce or AllReduce(group, config.hidden_size, config.params_dtype, device)
            if _fusible_attention(layer, config):
                skipped = bool(config.no_rope_freq and config.no_rope_freq[layer.layer_number - 1])
                halves[0] = _Attention(layer, None if skipped else table, all_reduce, in_place=index > 0)
            if _fusible_mlp(layer, config):
                gated_product = gated_product or GatedProduct(layer.mlp.linear_fc1.weight)
                halves[1] = _Mlp(layer, all_reduce, gated_product)
        order += halves
    _chain(order)
    return sum(half is not None for half in order[::2]), sum(half is not None for half in order[1::2])


def _chain(order: list[_Half | None]) -> None:
    """Link halves that are followed by a fused one, so that they leave their products to it."""
    pairs = [(a, b) for a, b in itertools.pairwise(order) if a is not None and b is not None]
    if len(pairs) < 2:
        return  # the only place would be used twice in succession
    for index, (half, following) in enumerate(pairs):
        half.place = index % 2
        following.before = half
    if len(pairs) % 2:  # the first follows the last
        pairs[-1][0].place = 2


def _plain(config: Any) -> bool:
    return all(getattr(config, name, allowed[0]) in allowed for name, allowed in _NEEDED.items())


def _rotations(embedding: Any, positions: int) -> Tensor:
    """Return float32[positions, rotated size]: cosines, then sines."""
    frequencies = embedding.get_freqs_non_repeated(positions).float()
    return torch.cat((frequencies.cos(), frequencies.sin()), dim=-1).contiguous()


def _fusible_attention(layer: Any, config: Any) -> bool:
    attention = layer.self_attention
    return (
        type(attention) is SelfAttention
        and type(layer.input_layernorm) is IdentityOp
        and type(layer.cross_attention) is IdentityOp
        and _are_plain(attention.linear_qkv, attention.linear_proj)
        and (config.num_query_groups or config.num_attention_heads) >= layer.pg_collection.tp.size()
        and (attention.q_layernorm is None) == (attention.k_layernorm is None)
    )


def _fusible_mlp(layer: Any, config: Any) -> bool:
    return (
        type(layer.mlp) is MLP
        and type(layer.pre_mlp_layernorm) is IdentityOp
        and _are_plain(layer.mlp.linear_fc1, layer.mlp.linear_fc2)
        and bool(config.gated_linear_unit)
        and config.activation_func is functional.silu
        and not config.use_te_activation_func
        and getattr(config, "activation_func_clamp_value", None) is None
        and not getattr(config, "glu_linear_offset", 0.0)
    )


def _are_plain(first: Any, second: Any) -> bool:
    """Return whether the half's layers only normalise and multiply: no adapters, no norm of the output."""
    return (
        type(first) is transformer_engine.TELayerNormColumnParallelLinear
        and type(second) is transformer_engine.TERowParallelLinear
    )


def _window(layer: Any) -> int:
    """Return the number of earlier tokens that a token of this layer attends to; -1 means all."""
    config = layer.config
    limited = is_layer_window_attention(config.window_size, config.window_attn_skip_freq, layer.layer_number)
    return int(config.window_size[0]) if limited else -1


def _bias(linear: Any) -> Tensor | None:
    bias = getattr(linear, "bias", None)
    return bias if bias is not None and bias.numel() else None


class _Half:
    """One half of a layer, which replaces the layer's own method."""

    method: str

    def __init__(self, layer: Any, all_reduce: AllReduce):
        self._layer = layer
        self._all_reduce = all_reduce
        self._original = getattr(layer, self.method)
        self._eps = float(layer.config.layernorm_epsilon)
        self.before: _Half | None = None
        """The previous half, if it may leave its product to this one."""
        self.place: int | None = None
        """Where this half leaves its product; None if it adds the product itself."""
        self._left_to: Exchange | None = None
        """The exchange that has this half's product of the current step, until the next half adds it."""
        setattr(layer, self.method, self)

    def _norm(self, residual: Tensor, first: Any) -> tuple[Tensor, Tensor | None]:
        """Return the input of the half's first product, and the weights of a norm that the product has to apply.

        Args:
            residual: [tokens, columns] of the residual stream. The product left to this half is added to it.
            first: the half's first layer.
        """
        norm, before = first.layer_norm_weight, self.before
        if before is not None and before.place is not None and before._left_to is not None:
            exchange, before._left_to = before._left_to, None
            return exchange.add_and_norm(residual, norm, self._eps, before.place), None
        if one_row.can_multiply(residual, first.weight):
            return residual, norm
        return rms_norm(residual, norm, self._eps), None

    def _add_product(self, residual: Tensor, x: Tensor, weight: Tensor, *, in_place: bool) -> Tensor:
        """Return `residual` plus the product; with tensor parallelism the next half may add the product later."""
        if self._all_reduce.ranks == 1:
            if one_row.can_multiply(x, weight):
                return one_row.add_product(residual, x, weight, in_place=in_place)
            return residual.addmm_(x, weight.t()) if in_place else torch.addmm(residual, x, weight.t())
        exchange = self._all_reduce.exchange(residual.shape[0])
        if self.place is not None and exchange is not None:
            exchange.leave(x, weight, self.place)
            self._left_to = exchange
            return residual if in_place else residual.clone()
        product = self._all_reduce.product(x, weight)
        return residual.add_(product) if in_place else residual + product


class _Attention(_Half):
    """Norm, attention and its projection, added to the residual stream.

    Args:
        table: see `RotaryParameters`.
        in_place: add to the input in place; nothing else may use it then.
    """

    method = "_forward_attention"

    def __init__(self, layer: Any, table: Tensor | None, all_reduce: AllReduce, *, in_place: bool):
        super().__init__(layer, all_reduce)
        attention = layer.self_attention
        self._attention = attention
        self._in_place = in_place
        self._groups = int(attention.num_query_groups_per_partition)
        self._scale = getattr(attention, "softmax_scale", None) or attention.hidden_size_per_attention_head**-0.5
        self._window = _window(layer)
        self._plain_softmax = layer.config.softmax_type == "vanilla" and not attention.batch_invariant_mode
        query_norm, key_norm = (
            None if norm is None else norm.weight for norm in (attention.q_layernorm, attention.k_layernorm)
        )
        self._rotary = RotaryParameters(table, query_norm, key_norm, self._eps)

    def __call__(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, context: Tensor | None = None, **others: Any
    ) -> tuple[Tensor, Tensor | None]:
        paged = others.get("inference_context")
        if paged is None or paged.is_static_batching():
            original: tuple[Tensor, Tensor | None] = self._original(hidden_states, attention_mask, context, **others)
            return original
        residual = hidden_states.view(-1, hidden_states.shape[-1])
        linear = self._attention.linear_qkv
        x, norm = self._norm(residual, linear)
        if one_row.can_multiply(x, linear.weight):
            mixed = one_row.product(x, linear.weight, norm=norm, eps=self._eps, bias=_bias(linear))
        else:
            mixed = functional.linear(x, linear.weight, _bias(linear))
        attended = self._attend(mixed, paged).view(residual.shape[0], -1)
        out = self._add_product(residual, attended, self._attention.linear_proj.weight, in_place=self._in_place)
        return out.view(hidden_states.shape), context

    def _attend(self, mixed: Tensor, paged: Any) -> Tensor:
        attention, tokens, view = self._attention, mixed.shape[0], paged.gpu_view
        number = attention.layer_number - attention._get_pp_layer_offset_for_inference()
        keys, values, block_table = paged.key_value_cache(number)
        places = Places(
            view.token_to_block_idx[:tokens],
            view.token_to_local_position_within_kv_block[:tokens],
            view.token_to_pos_ids[:tokens],
        )
        cu_query_lengths, max_query_length = paged.cu_query_lengths()
        cu_key_lengths, key_lengths, max_key_length = paged.cu_kv_lengths()
        one_token_each = paged.is_decode_only() and key_lengths.shape[0] == tokens
        if one_token_each and self._plain_softmax and can_decode(keys):
            return decode(
                mixed,
                self._groups,
                keys,
                values,
                places,
                self._rotary,
                block_table,
                key_lengths,
                self._scale,
                self._window,
            )
        query = rotate_and_store(mixed, self._groups, keys, values, places, self._rotary)
        attended: Tensor = attention.flash_decode_and_prefill(
            query,
            keys,
            values,
            max_query_length,
            max_key_length,
            cu_query_lengths,
            cu_key_lengths,
            key_lengths,
            block_table,
            paged.is_decode_only(),
            softmax_offset=attention._get_inference_softmax_offset(),
        )
        return attended.contiguous()


class _Mlp(_Half):
    """Norm and gated MLP, added to the residual stream in place."""

    method = "_forward_mlp"

    def __init__(self, layer: Any, all_reduce: AllReduce, gated_product: GatedProduct):
        super().__init__(layer, all_reduce)
        self._gated_product = gated_product

    def __call__(self, hidden_states: Tensor, inference_context: Any = None, **others: Any) -> Tensor:
        if inference_context is None or inference_context.is_static_batching():
            original: Tensor = self._original(hidden_states, inference_context, **others)
            return original
        first, second = self._layer.mlp.linear_fc1, self._layer.mlp.linear_fc2
        residual = hidden_states.view(-1, hidden_states.shape[-1])
        x, norm = self._norm(residual, first)
        if one_row.can_multiply(x, first.weight):
            inner = one_row.gated_product(x, first.weight, norm=norm, eps=self._eps)
        else:
            inner = self._gated_product(x, first.weight)
        return self._add_product(residual, inner, second.weight, in_place=True).view(hidden_states.shape)
