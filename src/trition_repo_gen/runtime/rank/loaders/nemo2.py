"""A NeMo 2.0 checkpoint of a model that takes images becomes this rank's part of it.

nemo-toolkit reads the configuration graph and its class is the model; the weights are loaded by Megatron Core. NeMo's
trainer, its strategy and its `generate` have no part in it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.validation import StrictHandling
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

from ...common.errors import LoadError
from ...common.settings import Settings
from ..engines.images.engine import LoadedMultimodalModel
from ..engines.images.families import NemoQwen2VL
from . import layout, processor, reading, weights
from .nemo2_graph import Graph, GraphError

_PREFIX = "module."
"""Of all keys: the checkpoint is a Lightning module's, which holds the model by that name."""


def load(settings: Settings, *, device_is_cpu: bool, progress: Callable[[str], None]) -> LoadedMultimodalModel:
    """Load this rank's part of the model, and its processor. Collective: all ranks of the world call it.

    Sets up Megatron's process groups on top of torch.distributed, which has to be initialized.

    Args:
        settings: the deployment.
        device_is_cpu: whether there is no GPU.
        progress: takes one line about what goes on, several times.

    Raises:
        LoadError: the checkpoint lacks a weight or a processor, cannot be read, is not of a family that is served, or
            cannot be cut like that.
    """
    started = time.monotonic()
    checkpoint = Path(settings.checkpoint)
    progress(f"reading {checkpoint}")
    folders = processor.nemo2_folders(checkpoint)
    reads = processor.load(settings.processor, folders)
    config = _read_config(checkpoint / "context")
    _adapt(config, settings)
    parallel_state.initialize_model_parallel(**layout.group_sizes(config))
    layout.check(config, settings)
    model_parallel_cuda_manual_seed(0)

    progress(f"building {type(config).__name__} as {settings.params_dtype}, {layout.describe(settings)}")
    model = _build(config, device_is_cpu)
    wanted = model.sharded_state_dict(prefix=_PREFIX)
    with weights.Meter(progress) as meter, reading.by_threads():
        meter.expect(wanted, checkpoint / "weights", settings.legacy_checkpoint)
        found = dist_checkpointing.load(wanted, str(checkpoint / "weights"), strict=StrictHandling.IGNORE_ALL)
    model.load_state_dict({key.removeprefix(_PREFIX): value for key, value in found.items()}, strict=False)
    progress(f"loaded in {time.monotonic() - started:.1f} s")
    return LoadedMultimodalModel(
        model=NemoQwen2VL(model, reads.tokenizer.convert_tokens_to_ids(reads.image_token)),
        processor=reads,
        eos_ids=processor.eos_ids(reads, settings.processor, folders),
        vocab_size=config.language_transformer_config.vocab_size,
    )


def _read_config(context: Path) -> Any:
    """Return `model.config` as nemo-toolkit's object. Nothing is imported before the graph was checked.

    Raises:
        LoadError: the graph is damaged or names what must not run, or the model is of another family.
    """
    try:
        graph = Graph(context)
    except (GraphError, OSError) as error:
        raise LoadError(str(error)) from None
    import_nemo()
    import fiddle
    from nemo.collections import vlm
    from nemo.lightning.io.mixin import drop_unexpected_params, serialization

    described = serialization.Deserialization(graph.document()).result
    drop_unexpected_params(described)
    config = fiddle.build(described)
    if not isinstance(config, vlm.Qwen2VLConfig):
        raise LoadError(
            f"{context.parent} holds a {type(config).__name__}; of NeMo 2.0 models Qwen2-VL and 2.5 are served."
        )
    return config


def import_nemo() -> None:
    """Import nemo-toolkit's multimodal models, which takes half a minute."""
    without_tensorstore()
    importlib.import_module("nemo.collections.vlm")


def without_tensorstore() -> None:
    """Let nemo-toolkit import a part of Megatron Core that is gone since 0.16; reading a checkpoint never uses it.

    nemo/utils/callbacks/dist_ckpt_io.py:39 of nemo-toolkit 2.7.3.
    """
    strategies = importlib.import_module("megatron.core.dist_checkpointing.strategies")
    name = f"{strategies.__name__}.tensorstore"
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        sys.modules[name] = ModuleType(name)
        setattr(strategies, "tensorstore", sys.modules[name])  # noqa: B010  # the module's type knows no such name


def _adapt(config: Any, settings: Settings) -> None:
    """Make the configuration this deployment's: the model's own and those of its three parts."""
    parts = (config.language_transformer_config, config.vision_transformer_config, config.vision_projection_config)
    for part in (config, *parts):
        layout.apply(part, settings)
    for part in parts[1:]:  # the whole vision tower is on the first stage
        part.pipeline_model_parallel_size = 1
        part.num_layers_in_first_pipeline_stage = part.num_layers_in_last_pipeline_stage = None
    config.language_transformer_config.parallel_output = False
    for name in ("language_model", "vision_model", "vision_projection"):
        setattr(config, f"{name}_from_pretrained", None)  # paths of the machine that trained it


def _build(config: Any, device_is_cpu: bool) -> torch.nn.Module:
    """Build this rank's part of the model, in eval mode and with weights that mean nothing yet."""
    from megatron.core.extensions.transformer_engine import HAVE_TE
    from nemo.collections.vlm.vision import base as projector

    from . import nemo2_layers

    # nemo-toolkit 2.7.3 imports them from a module that megatron-core 0.16 has not (vlm/vision/base.py:27), so that
    # they are None on any machine.
    projector.TEColumnParallelLinear, projector.TERowParallelLinear = nemo2_layers.linear_layers(HAVE_TE)
    if not HAVE_TE:
        nemo2_layers.use_torch(config)
    parts = (config.language_transformer_config, config.vision_transformer_config, config.vision_projection_config)
    for part in (config, *parts):
        part.use_cpu_initialization = device_is_cpu
        part.bias_activation_fusion = part.bias_dropout_fusion = False
    model = config.configure_model(tokenizer=None)
    for (
        parameter
    ) in model.parameters():  # those of torch's own layers know no `params_dtype`; buffers keep their precision
        parameter.data = parameter.data.to(config.params_dtype)
    if not device_is_cpu:
        model.cuda()
    built: torch.nn.Module = model.eval()
    return built
