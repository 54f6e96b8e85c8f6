"""Load this rank's part of a language model from a Megatron-Bridge checkpoint, sharded as the settings say.

Importing this module imports Megatron-Bridge. Where there is no GPU, call `cpu.install` before and `cpu.after_import`
after the import.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import megatron.bridge  # noqa: F401  # registers the model families that run_config.yaml may name
import torch
from megatron.bridge.training.model_load_save import build_and_load_model, load_model_config
from megatron.core import parallel_state
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from torch.distributed.checkpoint.api import CheckpointException

from ...common.errors import LoadError
from ...common.settings import Settings, is_on
from ..engines.core import attention_kernels, upstream
from ..engines.core.loaded import LoadedModel
from . import layout, tokenizer, weights
from .registry import Progress

__all__ = ["build", "load"]


def load(settings: Settings, *, on_cpu: bool, progress: Progress) -> LoadedModel:
    """Load this rank's part of a language model, and its tokenizer; see `build`.

    Raises:
        LoadError: as `build`, or there is no tokenizer, or no GPU for fused layers.
    """
    fused = is_on(settings.fused_layers, on_gpu=not on_cpu)
    if fused and on_cpu:
        raise LoadError("FUSED_LAYERS is on, but this rank has no GPU; set it to auto.")
    loaded_tokenizer = tokenizer.load(Path(settings.checkpoint), settings.tokenizer)
    model, config = build(settings, on_cpu=on_cpu, progress=progress)
    attention_kernels.require_paged(model)
    if fused:
        from ..engines.core.fused.layers import fuse

        attentions, mlps = fuse(model, settings.max_sequence_length)
        progress(f"fused {attentions} attention and {mlps} MLP layers")
    return LoadedModel(
        model=model,
        tokenizer=loaded_tokenizer.tokenizer,
        eos_ids=loaded_tokenizer.eos_ids,
        vocab_size=getattr(config, "vocab_size", None) or len(loaded_tokenizer.tokenizer),
    )


def build(settings: Settings, *, on_cpu: bool, progress: Progress) -> tuple[torch.nn.Module, Any]:
    """Load this rank's part of the weights; see `Loader.load`.

    Returns:
        the model's part in eval mode, and the whole model's configuration.

    Raises:
        LoadError: the checkpoint lacks a weight, cannot be read, or cannot be split like that.
    """
    started = time.monotonic()
    checkpoint = Path(settings.checkpoint)
    progress(f"reading {checkpoint}")
    config, megatron_lm_arguments = load_model_config(str(checkpoint))
    layout.apply(config, settings)
    if on_cpu:
        from .. import cpu

        cpu.adapt_config(config)
    else:
        progress(f"attention by {attention_kernels.choose(config)}")
    upstream.apply()
    layout.check(config, settings)
    parallel_state.initialize_model_parallel(**layout.group_sizes(config))
    # Serving samples nothing from Megatron's generators. The inference tracker leaves them alone, without which CUDA
    # graphs cannot be recorded.
    model_parallel_cuda_manual_seed(0, te_rng_tracker=settings.enable_cuda_graphs, inference_rng_tracker=True)

    progress(f"building {type(config).__name__} as {settings.params_dtype}, {layout.describe(settings)}")
    try:
        with weights.checked(checkpoint, settings.legacy_checkpoint, progress):
            models = build_and_load_model(
                str(checkpoint),
                config,
                model_type=None if megatron_lm_arguments is None else "gpt",
                megatron_args=megatron_lm_arguments,
                use_cpu_init=on_cpu,
            )
    except CheckpointException as error:  # derives from BaseException, which no caller would report
        rank, (cause, _) = next(iter(error.failures.items()))
        raise LoadError(f"Rank {rank} cannot read {checkpoint}: {type(cause).__name__}: {cause}") from error
    progress(f"loaded in {time.monotonic() - started:.1f} s")
    return models[0].eval(), config
