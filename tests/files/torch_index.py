"""Distributed checkpoints as torch writes them (2.11, distributed/checkpoint/metadata.py), without torch or weights.

Also has the shapes of real models' weights, under the names that Megatron Core 0.19 gives them.
"""

import pickle
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from tests.files import FileTree

Shapes = dict[str, tuple[int, ...]]

_METADATA = "torch.distributed.checkpoint.metadata"
_FILESYSTEM = "torch.distributed.checkpoint.filesystem"
_CLASSES = {
    "torch": ["Size", "float32"],
    "torch.serialization": ["_get_layout"],
    _METADATA: [
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "TensorProperties",
        "TensorStorageMetadata",
    ],
    _FILESYSTEM: ["_StorageInfo"],
}


SHARDS = ("__0_0.distcp", "__0_1.distcp")


def distributed_checkpoint(shapes: Shapes | None = None) -> FileTree:
    """Return the files of a distributed checkpoint whose index lists these weights, or is none that can be read."""
    # A real index is a pickle in which the shards' names stand like this.
    names = b"\x80\x04relative_path\x94\x8c\r__0_0.distcp\x94\x8c\r__0_1.distcp\x94."
    return {
        "metadata.json": '{"sharded_backend": "torch_dist", "sharded_backend_version": 1}',
        ".metadata": names if shapes is None else index(shapes, SHARDS),
        **dict.fromkeys(SHARDS, b"weights!"),
    }


def index(shapes: Mapping[str, tuple[int, ...]], shards: Iterable[str] = SHARDS[:1]) -> bytes:
    """Return the content of a `.metadata` of these weights, each of which is one chunk."""
    known = {name: sys.modules.get(name) for name in _CLASSES}
    try:
        made = {name: _class(module, name) for module, names in _CLASSES.items() for name in names}
        return pickle.dumps(_index(made, shapes, shards))
    finally:
        for name, module in known.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _class(module: str, name: str) -> type:
    base = tuple if name == "Size" else object
    members: dict[str, Any] = {"__module__": module}
    if name == "TensorProperties":  # its state is no dictionary
        members["__getstate__"] = lambda self: (self.dtype, self.layout, False, 0, False)
    made = type(name, (base,), members)
    where = sys.modules.setdefault(module, ModuleType(module))
    setattr(where, name, made)
    return made


def _index(made: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], shards: Iterable[str]) -> Any:
    def thing(name: str, **attributes: Any) -> Any:
        one = made[name]()
        vars(one).update(attributes)
        return one

    weights, places = {}, {}
    for name, shape in shapes.items():
        size = made["Size"](shape)
        properties = thing("TensorProperties", dtype=made["float32"], layout=made["_get_layout"])
        chunk = thing("ChunkStorageMetadata", offsets=made["Size"](0 for _ in shape), sizes=size)
        weights[name] = thing("TensorStorageMetadata", properties=properties, size=size, chunks=[chunk])
        weights[f"{name.rpartition('.')[0]}._extra_state/shard_0_1"] = thing("BytesStorageMetadata")
        places[thing("MetadataIndex", fqn=name, offset=size, index=0)] = thing("_StorageInfo", offset=0, length=1)
    for shard in shards:
        places[thing("MetadataIndex", fqn=shard)] = thing("_StorageInfo", relative_path=shard, offset=0, length=1)
    return thing("Metadata", state_dict_metadata=weights, planner_data=None, storage_data=places, storage_meta=None)


LLAMA_8B: dict[str, Any] = {
    "num_layers": 32,
    "hidden_size": 4096,
    "ffn_hidden_size": 14336,
    "num_attention_heads": 32,
    "num_query_groups": 8,
    "kv_channels": 128,
    "vocab_size": 128256,
    "seq_length": 131072,
}
"""Llama 3.1 8B, 8,030,261,248 weights."""

QWEN3_30B: dict[str, Any] = {
    "num_layers": 48,
    "hidden_size": 2048,
    "ffn_hidden_size": 6144,
    "num_attention_heads": 32,
    "num_query_groups": 4,
    "kv_channels": 128,
    "vocab_size": 151936,
    "seq_length": 40960,
    "num_moe_experts": 128,
    "moe_ffn_hidden_size": 768,
    "moe_router_topk": 8,
}
"""Qwen3-30B-A3B, 30,532,122,624 weights."""

DEEPSEEK_V2_LITE: dict[str, Any] = {
    "num_layers": 27,
    "hidden_size": 2048,
    "ffn_hidden_size": 10944,
    "num_attention_heads": 16,
    "num_query_groups": 16,
    "kv_channels": 128,
    "vocab_size": 102400,
    "seq_length": 32768,
    "num_moe_experts": 64,
    "moe_ffn_hidden_size": 1408,
    "moe_router_topk": 6,
    "moe_shared_expert_intermediate_size": 2816,
    "moe_layer_freq": [0] + [1] * 26,
    "multi_latent_attention": True,
    "kv_lora_rank": 512,
    "qk_pos_emb_head_dim": 64,
}
"""DeepSeek-V2-Lite, 15,706,484,224 weights."""


def llama(model: Mapping[str, Any], *, tied: bool = False) -> Shapes:
    """Return the shapes of a dense model's weights."""
    hidden, layers, ffn = model["hidden_size"], model["num_layers"], model["ffn_hidden_size"]
    return _around(model, tied) | {
        **_attention(model),
        "decoder.layers.mlp.linear_fc1.layer_norm_weight": (layers, hidden),
        "decoder.layers.mlp.linear_fc1.weight": (layers, 2 * ffn, hidden),
        "decoder.layers.mlp.linear_fc2.weight": (layers, hidden, ffn),
    }


def qwen3_moe(model: Mapping[str, Any]) -> Shapes:
    """Return the shapes of the weights of a model with experts in every layer."""
    hidden, layers, ffn = model["hidden_size"], model["num_layers"], model["moe_ffn_hidden_size"]
    experts, head = model["num_moe_experts"], model["kv_channels"]
    return _around(model, tied=False) | {
        **_attention(model),
        "decoder.layers.self_attention.q_layernorm.weight": (layers, head),
        "decoder.layers.self_attention.k_layernorm.weight": (layers, head),
        "decoder.layers.pre_mlp_layernorm.weight": (layers, hidden),
        "decoder.layers.mlp.router.weight": (layers, experts, hidden),
        "decoder.layers.mlp.experts.experts.linear_fc1.weight": (layers, experts, 2 * ffn, hidden),
        "decoder.layers.mlp.experts.experts.linear_fc2.weight": (layers, experts, hidden, ffn),
    }


def deepseek_v2(model: Mapping[str, Any]) -> Shapes:
    """Return the shapes of the weights of a model with latent attention, whose first layer has no experts."""
    hidden, ffn, shared = model["hidden_size"], model["ffn_hidden_size"], model["moe_shared_expert_intermediate_size"]
    heads, size, latent, rotary = model["num_attention_heads"], 128, model["kv_lora_rank"], model["qk_pos_emb_head_dim"]
    experts, width = model["num_moe_experts"], model["moe_ffn_hidden_size"]
    shapes = _around(model, tied=False)
    for layer in range(model["num_layers"]):
        attention = {
            "input_layernorm.weight": (hidden,),
            "self_attention.linear_q_proj.weight": (heads * (size + rotary), hidden),
            "self_attention.linear_kv_down_proj.weight": (latent + rotary, hidden),
            "self_attention.linear_kv_up_proj.weight": (heads * 2 * size, latent),
            "self_attention.linear_kv_up_proj.layer_norm_weight": (latent,),
            "self_attention.linear_proj.weight": (hidden, heads * size),
        }
        dense = {
            "mlp.linear_fc1.layer_norm_weight": (hidden,),
            "mlp.linear_fc1.weight": (2 * ffn, hidden),
            "mlp.linear_fc2.weight": (hidden, ffn),
        }
        mixture = {
            "pre_mlp_layernorm.weight": (hidden,),
            "mlp.router.weight": (experts, hidden),
            "mlp.experts.experts.linear_fc1.weight": (experts, 2 * width, hidden),
            "mlp.experts.experts.linear_fc2.weight": (experts, hidden, width),
            "mlp.shared_experts.linear_fc1.weight": (2 * shared, hidden),
            "mlp.shared_experts.linear_fc2.weight": (hidden, shared),
        }
        for name, shape in (attention | (mixture if layer else dense)).items():
            shapes[f"decoder.layers.{layer}.{name}"] = shape
    return shapes


def _attention(model: Mapping[str, Any]) -> Shapes:
    hidden, layers = model["hidden_size"], model["num_layers"]
    heads, groups, head = model["num_attention_heads"], model["num_query_groups"], model["kv_channels"]
    return {
        "decoder.layers.self_attention.linear_qkv.layer_norm_weight": (layers, hidden),
        "decoder.layers.self_attention.linear_qkv.weight": (layers, (heads + 2 * groups) * head, hidden),
        "decoder.layers.self_attention.linear_proj.weight": (layers, hidden, heads * head),
    }


def _around(model: Mapping[str, Any], tied: bool) -> Shapes:
    hidden, vocabulary = model["hidden_size"], model["vocab_size"]
    shapes = {
        "embedding.word_embeddings.weight": (vocabulary, hidden),
        "decoder.final_layernorm.weight": (hidden,),
    }
    return shapes if tied else shapes | {"output_layer.weight": (vocabulary, hidden)}
