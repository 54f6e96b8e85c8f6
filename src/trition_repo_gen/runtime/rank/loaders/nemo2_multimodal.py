"""Load this rank's part of a multimodal model from a NeMo 2.0 checkpoint.

nemo-toolkit builds the model from the checkpoint's configuration graph; Megatron Core loads the weights. NeMo's
trainer, its strategy and its `generate` are not used.
"""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.validation import StrictHandling
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

from ...common.errors import LoadError
from ...common.settings import Settings
from ..engines.images import families
from ..engines.images.loaded import LoadedMultimodalModel
from . import layout, processors, reading, upstream, weights
from .nemo2_graph import Graph, GraphError
from .registry import Progress

_PREFIX = "module."
"""Prefix of all keys: the checkpoint is a Lightning module's, which holds the model under that name."""


def load(settings: Settings, *, on_cpu: bool, progress: Progress) -> LoadedMultimodalModel:
    """Load this rank's part of the model, and its processor; see `Loader.load`.

    Raises:
        LoadError: the checkpoint lacks a weight or a processor, cannot be read, is not of a family that is served, or
            cannot be split like that.
    """
    started = time.monotonic()
    checkpoint = Path(settings.checkpoint)
    progress(f"reading {checkpoint}")
    folders = processors.nemo2_folders(checkpoint)
    processor = processors.load(settings.processor, folders)
    config, family = _read_config(checkpoint / "context")
    _adapt(config, settings)
    parallel_state.initialize_model_parallel(**layout.group_sizes(config))
    layout.check(config, settings)
    model_parallel_cuda_manual_seed(0)

    progress(f"building {type(config).__name__} as {settings.params_dtype}, {layout.describe(settings)}")
    model = _build(config, on_cpu)
    requested = model.sharded_state_dict(prefix=_PREFIX)
    with weights.Meter(progress) as meter, reading.by_threads():
        meter.expect(requested, checkpoint / "weights", settings.legacy_checkpoint)
        loaded = dist_checkpointing.load(requested, str(checkpoint / "weights"), strict=StrictHandling.IGNORE_ALL)
    model.load_state_dict({key.removeprefix(_PREFIX): value for key, value in loaded.items()}, strict=False)
    progress(f"loaded in {time.monotonic() - started:.1f} s")
    return LoadedMultimodalModel(
        model=family(model, processor.tokenizer.convert_tokens_to_ids(processor.image_token)),
        processor=processor,
        eos_ids=processors.eos_ids(processor, settings.processor, folders),
        vocab_size=config.language_transformer_config.vocab_size,
    )


def _read_config(context: Path) -> tuple[Any, Any]:
    """Return `model.config` as nemo-toolkit's object, and the `MultimodalModel` class that runs such a model.

    Nothing is imported before the graph was checked.

    Raises:
        LoadError: the graph is damaged or names what must not run, or the model is of a family that is not served.
    """
    try:
        graph = Graph(context)
    except (GraphError, OSError) as error:
        raise LoadError(str(error)) from None
    import_nemo()
    import fiddle
    from nemo.lightning.io.mixin import drop_unexpected_params, serialization

    described = serialization.Deserialization(graph.document()).result
    drop_unexpected_params(described)
    config = fiddle.build(described)
    family = families.runner(families.NEMO2, type(config))
    if family is None:
        raise LoadError(
            f"{context.parent} holds a {type(config).__name__}; of NeMo 2.0's multimodal models "
            f"{families.served_names(families.NEMO2)} are served."
        )
    return config, family


def import_nemo() -> None:
    """Import nemo-toolkit's multimodal models, which takes half a minute."""
    upstream.without_tensorstore()
    importlib.import_module("nemo.collections.vlm")


def _adapt(config: Any, settings: Settings) -> None:
    """Write the deployment onto the configuration of the model and those of its three parts, in place."""
    parts = (config.language_transformer_config, config.vision_transformer_config, config.vision_projection_config)
    for part in (config, *parts):
        layout.apply(part, settings)
    for part in parts[1:]:  # the whole vision tower is on the first stage
        part.pipeline_model_parallel_size = 1
        part.num_layers_in_first_pipeline_stage = part.num_layers_in_last_pipeline_stage = None
    config.language_transformer_config.parallel_output = False
    for name in ("language_model", "vision_model", "vision_projection"):
        setattr(config, f"{name}_from_pretrained", None)  # paths of the machine that trained it


def _build(config: Any, on_cpu: bool) -> torch.nn.Module:
    """Build this rank's part of the model, in eval mode and before its weights are loaded."""
    from megatron.core.extensions.transformer_engine import HAVE_TE

    from . import nemo2_layers

    upstream.projector_layers(*nemo2_layers.linear_layers(HAVE_TE))
    if not HAVE_TE:
        nemo2_layers.use_torch(config)
    parts = (config.language_transformer_config, config.vision_transformer_config, config.vision_projection_config)
    for part in (config, *parts):
        part.use_cpu_initialization = on_cpu
        part.bias_activation_fusion = part.bias_dropout_fusion = False
    model = config.configure_model(tokenizer=None)
    for parameter in model.parameters():  # torch's own layers ignore `params_dtype`; buffers keep their precision
        parameter.data = parameter.data.to(config.params_dtype)
    if not on_cpu:
        model.cuda()
    built: torch.nn.Module = model.eval()
    return built
