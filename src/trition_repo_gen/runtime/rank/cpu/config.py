"""What a Megatron model's configuration must not ask for on a CPU."""

from __future__ import annotations

from typing import Any

import torch

# Fused kernels, overlapped communication, CUDA graphs, low-precision formats: all of them GPU code. Dropout is off
# because its random-number tracker is a CUDA one.
GPU_ONLY: dict[str, object] = {
    "apply_rope_fusion": False,
    "attention_dropout": 0.0,
    "bias_activation_fusion": False,
    "bias_dropout_fusion": False,
    "cross_entropy_loss_fusion": False,
    "cuda_graph_impl": "none",
    "deallocate_pipeline_outputs": False,
    "enable_cuda_graph": False,
    "external_cuda_graph": False,
    "flash_decode": False,
    "fp4": None,
    "fp8": None,
    "fused_residual_rmsnorm": False,
    "gradient_accumulation_fusion": False,
    "hidden_dropout": 0.0,
    "inference_cuda_graph_scope": None,
    "masked_softmax_fusion": False,
    "memory_efficient_layer_norm": False,
    "moe_grouped_gemm": False,
    "moe_permute_fusion": False,
    "moe_router_fusion": False,
    "moe_shared_expert_overlap": False,
    "persist_layer_norm": False,
    "tp_comm_overlap": False,
    "use_te_activation_func": False,
    "use_te_rng_tracker": False,
    "use_transformer_engine_op_fuser": False,
}


def adapt_config(config: Any, dtype: torch.dtype | None) -> None:
    """See `runtime.cpu.adapt_config`."""
    for name, value in GPU_ONLY.items():
        if hasattr(config, name):
            setattr(config, name, value)
    if getattr(config, "transformer_impl", None) == "inference_optimized":
        config.transformer_impl = "transformer_engine"
    if getattr(config, "num_moe_experts", None):
        # The dynamic engine gives expert-parallel ranks different numbers of tokens: allgather hangs, alltoall does
        # not. Without expert parallelism allgather is the one that needs no CUDA side stream.
        expert_parallel = (config.expert_model_parallel_size or 1) > 1
        config.moe_token_dispatcher_type = "alltoall" if expert_parallel else "allgather"
        if hasattr(config, "inference_moe_token_dispatcher_type"):
            config.inference_moe_token_dispatcher_type = "nccl"
    if dtype is not None:
        config.bf16, config.fp16 = dtype == torch.bfloat16, dtype == torch.float16
        config.params_dtype = config.autocast_dtype = config.pipeline_dtype = dtype
