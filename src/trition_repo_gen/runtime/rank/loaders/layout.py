"""Write a deployment's parallel layout and dtype onto a model's configuration, and check them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from ...common.errors import LoadError
from ...common.settings import Settings, cuda_graphs_obstacle

# Options that a training run may have turned on and serving does not need: kernels that need Apex or user buffers,
# activation recomputation, dtypes other than the settings'. The dynamic engine's paged attention applies rotary
# embeddings without the fused kernel.
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
    """Write a deployment onto a configuration that was read from a checkpoint, in place.

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
        config.cache_mla_latents = True  # all that the dynamic engine caches for multi-latent attention
    if getattr(config, "num_moe_experts", None):
        # The other dispatchers gather parts of equal size, which expert-parallel ranks do not have, or need DeepEP.
        config.moe_token_dispatcher_type = "alltoall"
        config.moe_enable_deepep = False
    _set_cuda_graphs(config, settings.enable_cuda_graphs)


def _set_parallel_sizes(config: Any, settings: Settings) -> None:
    config.tensor_model_parallel_size = settings.tensor_parallel_size
    config.pipeline_model_parallel_size = settings.pipeline_parallel_size
    config.context_parallel_size = settings.context_parallel_size
    config.expert_model_parallel_size = settings.expert_parallel_size
    # Megatron's default is the tensor parallel size, and dense models accept nothing else.
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
        config.use_te_rng_tracker = enabled  # required by Megatron-Bridge 0.6.2 (models/gpt_provider.py:232)
    for name in ("cuda_graph_scope", "cuda_graph_modules"):
        if hasattr(config, name):
            setattr(config, name, [])
    if hasattr(config, "inference_cuda_graph_scope"):
        # One graph for all layers of a rank: replaying one per layer takes longer in Python than on the GPU.
        config.inference_cuda_graph_scope = "block" if enabled else None


def group_sizes(config: Any) -> dict[str, Any]:
    """Return the arguments of `parallel_state.initialize_model_parallel`."""
    names = (
        "tensor_model_parallel_size",
        "pipeline_model_parallel_size",
        "context_parallel_size",
        "expert_model_parallel_size",
        "expert_tensor_parallel_size",
    )
    return {name: getattr(config, name) for name in names}


def check(config: Any, settings: Settings) -> None:
    """Check the layout against the number of ranks that torchrun started, and against what the engine can do.

    Raises:
        LoadError: the number of ranks does not fit, or the model cannot run with that layout.
    """
    if config.sequence_parallel and getattr(config, "multi_latent_attention", False):
        # core/transformer/multi_latent_attention.py:820 joins latents of a part of the tokens to keys of all of them.
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
            f"{world} ranks were started, but the experts are sharded for {experts}; start a multiple of {experts}."
        )


def describe(settings: Settings) -> str:
    """Return the layout as a short text for a progress line, such as `TP=2 PP=2`."""
    sizes = {
        "TP": settings.tensor_parallel_size,
        "PP": settings.pipeline_parallel_size,
        "CP": settings.context_parallel_size,
        "EP": settings.expert_parallel_size,
        "DP": settings.data_parallel_size,
    }
    return " ".join(f"{name}={size}" for name, size in sizes.items() if size > 1) or "one rank"
