"""Megatron-Bridge checkpoints, without weights in them."""

from collections.abc import Mapping
from typing import Any

import yaml

from tests.files import FileTree, torch_index

RUN_CONFIG: dict[str, Any] = {
    "_target_": "megatron.bridge.training.config.ConfigContainer",
    "checkpoint": {"_target_": "megatron.bridge.training.config.CheckpointConfig", "ckpt_format": "torch_dist"},
    "mixed_precision": None,
    "model": {
        "_target_": "megatron.bridge.models.gpt_provider.GPTModelProvider",
        "activation_func": {"_call_": False, "_target_": "torch.nn.functional.silu"},
        "bf16": False,
        "ffn_hidden_size": 128,
        "fp16": False,
        "hf_model_id": "somebody/tiny-llama",
        "hidden_size": 64,
        "init_method": {"_args_": [], "_partial_": True, "_target_": "torch.nn.init.normal_", "mean": 0.0, "std": 0.3},
        "kv_channels": 16,
        "moe_ffn_hidden_size": None,
        "moe_layer_freq": 1,
        "moe_shared_expert_intermediate_size": None,
        "multi_latent_attention": False,
        "num_attention_heads": 4,
        "num_layers": 4,
        "num_moe_experts": None,
        "num_query_groups": 2,
        "params_dtype": {"_call_": False, "_target_": "torch.float32"},
        "pipeline_model_parallel_size": 1,
        "seq_length": 512,
        "should_pad_vocab": False,
        "tensor_model_parallel_size": 1,
        "vocab_size": 512,
        "window_size": None,
    },
    "peft": None,
    "tokenizer": {
        "_target_": "megatron.bridge.training.tokenizers.config.TokenizerConfig",
        "tokenizer_model": "/nowhere/tiny-llama",
        "tokenizer_type": "HuggingFaceTokenizer",
    },
}
"""The part of a real run_config.yaml (Megatron-Bridge 0.6.2, converted from a tiny Llama) that a build reads, and a few
of the entries around it. Real ones have 500 lines."""


def checkpoint(
    iteration: int = 0,
    *,
    sections: Mapping[str, Any] | None = None,
    shapes: torch_index.Shapes | None = None,
    **model: Any,
) -> FileTree:
    """Return the files of a whole checkpoint.

    Args:
        iteration: of the only `iter_*` folder.
        sections: whole sections of its run_config.yaml.
        shapes: of the weights that its index lists.
        model: entries of run_config.yaml's section `model`.
    """
    config = {**RUN_CONFIG, "model": {**RUN_CONFIG["model"], **model}, **(sections or {})}
    files: FileTree = {
        "tokenizer/tokenizer.json": "{}",
        "run_config.yaml": yaml.safe_dump(config),
        "train_state.pt": b"state",
        **torch_index.distributed_checkpoint(shapes),
    }
    return {f"iter_{iteration:07d}/{path}": content for path, content in files.items()} | {
        "latest_train_state.pt": b"state",
        "latest_checkpointed_iteration.txt": str(iteration),
    }
