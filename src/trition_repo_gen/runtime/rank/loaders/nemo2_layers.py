"""Layers of NeMo's Qwen-VL models without Transformer Engine, with the same checkpoint keys as with it.

With Transformer Engine, nemo-toolkit builds the model itself; it has no layer specification without.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.torch_norm import WrappedTorchNorm
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import Tensor
from torch.nn import functional

# Transformer Engine's linear layers contain the norm before them, and its checkpoints name the weights accordingly.
_KEYS = {
    "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
    "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_",
}


class PackedAttention(torch.nn.Module):  # type: ignore[misc]
    """Core attention of a vision tower: each packed sequence, an image or a window of one, attends to itself only.

    The language model's layers are built with it too; the engine replaces it there by attention over its cache.
    """

    def __init__(self, config: Any, layer_number: int, attn_mask_type: Any, attention_type: str, **_: Any):
        super().__init__()

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *_: Any, packed_seq_params: Any, **__: Any) -> Tensor:
        """Attend.

        Args:
            query: (tokens, heads, head size), as `key` and `value`.
            packed_seq_params: where the packed sequences begin.

        Returns:
            (tokens, heads * head size)
        """
        ends = packed_seq_params.cu_seqlens_q.tolist()
        out = torch.empty_like(query)
        for begin, end in pairwise(ends):
            q, k, v = (tensor[begin:end].transpose(0, 1)[None] for tensor in (query, key, value))
            out[begin:end] = functional.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1)
        return out.flatten(1)


def use_torch(config: Any) -> None:
    """Have a `Qwen2VLConfig` build its models from torch's and Megatron Core's own layers, in place."""
    config.vision_transformer_config.transformer_layer_spec = _layer(AttnMaskType.no_mask)
    config.language_transformer_config.transformer_layer_spec = _layer(AttnMaskType.causal)


def linear_layers(with_transformer_engine: bool) -> tuple[type, type]:
    """Return the classes of the projector's column-parallel and row-parallel layers."""
    if not with_transformer_engine:
        return ColumnParallelLinear, RowParallelLinear
    from megatron.core.extensions.transformer_engine import TEColumnParallelLinear, TERowParallelLinear

    return TEColumnParallelLinear, TERowParallelLinear


def _layer(mask: AttnMaskType) -> ModuleSpec:
    attention = SelfAttentionSubmodules(
        linear_qkv=ColumnParallelLinear,
        core_attention=PackedAttention,
        linear_proj=RowParallelLinear,
        q_layernorm=IdentityOp,
        k_layernorm=IdentityOp,
    )
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=WrappedTorchNorm,
            self_attention=ModuleSpec(module=SelfAttention, params={"attn_mask_type": mask}, submodules=attention),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=WrappedTorchNorm,
            mlp=ModuleSpec(
                module=MLP,
                submodules=MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear),
            ),
            mlp_bda=get_bias_dropout_add,
            sharded_state_dict_keys_map=_KEYS,
        ),
    )
