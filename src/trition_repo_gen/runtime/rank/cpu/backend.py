"""Where the CPU backend meets megatron: what is replaced in which module, and when.

Read against megatron-core 0.19.2 and megatron-bridge 0.6.2. Every function here changes one thing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from . import facade, placeholder
from .patching import PatchError, replace, require_module, require_parameters

CORE = "megatron-core"
EXTENSIONS = "megatron.core.extensions.transformer_engine"
JIT = "megatron.core.jit"
SPECIFICATIONS = "megatron.core.extensions.transformer_engine_spec_provider"
LAYERS = (
    "TENorm",
    "TELinear",
    "TEColumnParallelLinear",
    "TELayerNormColumnParallelLinear",
    "TERowParallelLinear",
    "TEDotProductAttention",
)
_done: set[str] = set()


def install() -> None:
    """See `runtime.cpu.install`."""
    if "install" in _done:
        return
    install_facade()
    _done.add("install")
    placeholder.install()
    sys.meta_path.insert(0, placeholder.Hook(EXTENSIONS, _with_layers))
    sys.meta_path.insert(0, placeholder.Hook(SPECIFICATIONS, _with_current_version))


def install_facade() -> None:
    """See `runtime.cpu.install_facade`."""
    if "install_facade" in _done:
        return
    if torch.cuda.is_available():
        raise RuntimeError("The CPU backend must not be installed where a GPU is.")
    if "megatron.core" in sys.modules:
        raise RuntimeError("The CPU backend must be installed before megatron.core is imported.")
    _done.add("install_facade")
    facade.install_cuda()
    facade.install_unpinned_memory()
    sys.meta_path.insert(0, placeholder.Hook(JIT, _without_compiler))


def after_import() -> None:
    """See `runtime.cpu.after_import`."""
    if "after_import" in _done:
        return
    if "install" not in _done or "megatron.bridge" not in sys.modules:
        raise RuntimeError("The CPU backend's after_import comes after its install and `import megatron.bridge`.")
    _done.add("after_import")
    fill_layer_names()
    default_norm()
    bridge_switches()
    token_counts_as_numpy()
    stages_without_cuda_check()
    paged_attention()
    append_to_cache_in_torch()


def _without_compiler(execute: Callable[[], None], module: ModuleType) -> None:
    """Run activations and gates as they are written; core/jit.py:26 would compile them, with a C++ compiler."""
    execute()
    if not hasattr(module, "disable_jit_fuser"):
        raise PatchError(CORE, f"no {JIT}.disable_jit_fuser")
    module.disable_jit_fuser()


def _with_layers(execute: Callable[[], None], module: ModuleType) -> None:
    """Put the pure-torch classes into `megatron.core.extensions.transformer_engine` right after its body ran."""
    execute()
    from . import core_attention, transformer_engine

    for name in LAYERS:
        replace(CORE, module, name, getattr(transformer_engine, name, None) or getattr(core_attention, name))


def _with_current_version(execute: Callable[[], None], module: ModuleType) -> None:
    """Let layer specifications count on a current Transformer Engine; some are made while Bridge is imported.

    core/extensions/transformer_engine_spec_provider.py:61 would else take Apex's norm for queries and keys, and :89
    experts under other names than a GPU's.
    """
    execute()
    replace(CORE, module, "is_te_min_version", lambda *_, **__: True)


def fill_layer_names() -> None:
    """Give modules that bound None, having asked for HAVE_TE, the classes.

    HAVE_TE itself stays False: core/transformer/moe/experts.py:60 and others import transformer_engine when it is
    True. The exception is moe_layer.py:266, which asks before it builds latent projections from TELinear.
    """
    extensions = require_module(CORE, EXTENSIONS)
    provider = require_module(CORE, SPECIFICATIONS)
    names: dict[str, Any] = {name: getattr(extensions, name) for name in LAYERS}
    names["TESpecProvider"] = provider.TESpecProvider
    split = "split_te_layernorm_column_parallel_linear"
    names[split] = getattr(extensions, split)
    for module in _loaded("megatron.core"):
        for name, value in names.items():
            if module.__dict__.get(name, value) is None:
                setattr(module, name, value)
    replace(CORE, require_module(CORE, "megatron.core.transformer.moe.moe_layer"), "HAVE_TE", True)


def default_norm() -> None:
    """Make the decoder's final norm the backend's. core/transformer/transformer_block.py:53."""
    block = require_module(CORE, "megatron.core.transformer.transformer_block")
    replace(CORE, block, "LayerNormImpl", sys.modules[EXTENSIONS].__dict__["TENorm"])


def bridge_switches() -> None:
    """Let Bridge's providers choose Transformer Engine's layer specification, as on a GPU.

    For instance megatron/bridge/models/deepseek/deepseek_v3_bridge.py:57, `use_transformer_engine=HAVE_TE`.
    """
    for module in _loaded("megatron.bridge.models"):
        if module.__dict__.get("HAVE_TE") is False:
            module.HAVE_TE = True  # type: ignore[attr-defined]


def token_counts_as_numpy() -> None:
    """Return numpy arrays for expert token counts that are on the CPU already.

    core/transformer/moe/moe_utils.py:1184 converts only what comes from a GPU, and the dispatcher counts on numpy.
    """
    dispatcher = require_module(CORE, "megatron.core.transformer.moe.token_dispatcher")

    def move(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
        return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor

    original = replace(CORE, dispatcher, "maybe_move_tensor_to_cpu", move)
    require_parameters(CORE, original, ("tensor", "as_numpy", "record_stream"))


def stages_without_cuda_check() -> None:
    """Let pipeline stages exchange CPU tensors. core/inference/communication_utils.py:28 asserts `tensor.is_cuda`."""
    communication = require_module(CORE, "megatron.core.inference.communication_utils")
    replace(CORE, communication, "_is_cuda", lambda tensor: None)
    replace(CORE, communication, "_is_cuda_contiguous", lambda tensor: None)


def paged_attention() -> None:
    """Give attention layers torch functions for FlashAttention 2 and FlashMLA. core/transformer/attention.py:64."""
    from . import attention as ours

    layer = require_module(CORE, "megatron.core.transformer.attention")
    for name in ("flash_attn_varlen_func", "flash_attn_with_kvcache", "flash_mla_with_kvcache", "get_mla_metadata"):
        replace(CORE, layer, name, getattr(ours, name))
    replace(CORE, layer, "HAVE_FA3", False)
    replace(CORE, layer, "HAVE_FA4", False)
    replace(CORE, layer, "HAVE_FMLA", True)
    replace(CORE, layer, "is_fa_min_version", lambda *_, **__: True)  # :1330 asks for 2.7.3 before dynamic batching


def append_to_cache_in_torch() -> None:
    """Write keys and values by torch indexing, not by a Triton kernel. inference/contexts/dynamic_context.py:1612."""
    context = require_module(CORE, "megatron.core.inference.contexts.dynamic_context")
    replace(CORE, context, "triton_append_key_value_cache", None)


def _loaded(package: str) -> list[ModuleType]:
    return [
        module
        for name, module in list(sys.modules.items())
        if module is not None and (name == package or name.startswith(package + "."))
    ]
