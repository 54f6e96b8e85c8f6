"""The parallel layout and the number format of a deployment, written onto a model's configuration."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from ...common.errors import LoadError
from ...common.settings import Settings, cuda_graphs_obstacle

# What a training run may have left on and serving has no use for: kernels that need Apex or user buffers, activation
# recomputation, number formats other than the one that the settings name. Rotary embeddings are applied outside the
# fused kernel by the dynamic engine's paged path.
_TRAINING_ONLY: dict[str, object] = {
    "apply_rope_fusion": False,
    "cpu_offloading": False,
    "flash_decode": False,
    "fp4": None,
    "fp8": None,
    "fp8_param": False,
    "gradient_accumulation_fusion": False,
    "masked_softmax_fusion": False,
    "persist_layer_norm": False,
    "recompute_granularity": None,
    "recompute_method": None,
    "recompute_num_layers": None,
    "tp_comm_overlap": False,
}


def apply(config: Any, settings: Settings) -> None:
    """Make a configuration that was read from a checkpoint this deployment's, in place.

    Args:
        config: a `TransformerConfig`, a Bridge provider or a `ModelConfig` that stands for one.
        settings: the deployment.
    """
    for name, value in _TRAINING_ONLY.items():
        if hasattr(config, name):
            setattr(config, name, value)
    _set_parallel_sizes(config, settings)
    _set_pipeline_split(config, settings)
    dtype = getattr(torch, settings.params_dtype)
    config.params_dtype = config.pipeline_dtype = config.autocast_dtype = dtype
    config.bf16, config.fp16 = dtype is torch.bfloat16, dtype is torch.float16
    config.perform_initialization = False
    if getattr(config, "multi_latent_attention", False):
        config.cache_mla_latents = True  # the dynamic engine pages nothing else for multi-latent attention
    if getattr(config, "num_moe_experts", None):
        # The others gather equal parts, which expert-parallel ranks do not have, or need DeepEP.
        config.moe_token_dispatcher_type = "alltoall"
        config.moe_enable_deepep = False
    _set_cuda_graphs(config, settings.enable_cuda_graphs)


def _set_parallel_sizes(config: Any, settings: Settings) -> None:
    config.tensor_model_parallel_size = settings.tensor_parallel_size
    config.pipeline_model_parallel_size = settings.pipeline_parallel_size
    config.context_parallel_size = settings.context_parallel_size
    config.expert_model_parallel_size = settings.expert_parallel_size
    # Megatron's default is the tensor parallel size, and dense models take nothing else.
    moe = bool(getattr(config, "num_moe_experts", None))
    config.expert_tensor_parallel_size = settings.expert_tensor_parallel_size if moe else settings.tensor_parallel_size
    config.sequence_parallel = settings.sequence_parallel and settings.tensor_parallel_size > 1


def _set_pipeline_split(config: Any, settings: Settings) -> None:
    config.virtual_pipeline_model_parallel_size = None
    if hasattr(config, "pipeline_model_parallel_layout"):
        config.pipeline_model_parallel_layout = None
    config.num_layers_in_first_pipeline_stage = settings.num_layers_in_first_pipeline_stage or None
    config.num_layers_in_last_pipeline_stage = settings.num_layers_in_last_pipeline_stage or None
    config.account_for_embedding_in_pipeline_split = settings.account_for_embedding_in_pipeline_split
    config.account_for_loss_in_pipeline_split = settings.account_for_loss_in_pipeline_split


def _set_cuda_graphs(config: Any, enabled: bool) -> None:
    for name in ("enable_cuda_graph", "external_cuda_graph"):  # deprecated names of the next one
        if hasattr(config, name):
            setattr(config, name, False)
    config.cuda_graph_impl = "local" if enabled else "none"
    if hasattr(config, "use_te_rng_tracker"):
        config.use_te_rng_tracker = enabled  # Megatron-Bridge 0.6.2 demands it (models/gpt_provider.py:232)
    for name in ("cuda_graph_scope", "cuda_graph_modules"):
        if hasattr(config, name):
            setattr(config, name, [])
    if hasattr(config, "inference_cuda_graph_scope"):
        # One graph for all layers of a rank: replaying one for each costs more in Python than on the GPU.
        config.inference_cuda_graph_scope = "block" if enabled else None


def group_sizes(config: Any) -> dict[str, Any]:
    """Return what `parallel_state.initialize_model_parallel` has to be told."""
    names = (
        "tensor_model_parallel_size",
        "pipeline_model_parallel_size",
        "context_parallel_size",
        "expert_model_parallel_size",
        "expert_tensor_parallel_size",
    )
    return {name: getattr(config, name) for name in names}


def check(config: Any, settings: Settings) -> None:
    """Compare the layout with the world that torchrun started, and with what the engine can do.

    Raises:
        LoadError: ranks are missing or left over, or the model cannot run like that.
    """
    if config.sequence_parallel and getattr(config, "multi_latent_attention", False):
        # core/transformer/multi_latent_attention.py:820 joins latents of a part of the sequence to keys of all of it.
        raise LoadError("SEQUENCE_PARALLEL is true; for multi-latent attention Megatron Core 0.19 needs it false.")
    obstacle = cuda_graphs_obstacle(stages=settings.pipeline_parallel_size, experts=config.num_moe_experts or 0)
    if config.cuda_graph_impl == "local" and obstacle and not settings.multimodal:
        raise LoadError(f"ENABLE_CUDA_GRAPHS is true; {obstacle} needs it false.")
    world, dense = dist.get_world_size(), settings.model_parallel_size
    if world % dense:
        raise LoadError(f"{world} ranks were started, but one replica needs {dense}; start a multiple of {dense}.")
    experts = (
        config.expert_model_parallel_size * config.expert_tensor_parallel_size * config.pipeline_model_parallel_size
    )
    if world % experts:
        raise LoadError(
            f"{world} ranks were started, but the experts are cut for {experts}; start a multiple of {experts}."
        )


def describe(settings: Settings) -> str:
    """Return the layout in a few words, for a progress line."""
    sizes = {
        "TP": settings.tensor_parallel_size,
        "PP": settings.pipeline_parallel_size,
        "CP": settings.context_parallel_size,
        "EP": settings.expert_parallel_size,
        "DP": settings.data_parallel_size,
    }
    return " ".join(f"{name}={size}" for name, size in sizes.items() if size > 1) or "one rank"
