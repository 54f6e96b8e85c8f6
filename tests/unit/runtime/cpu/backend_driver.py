"""Runs the CPU backend's façade and layers beside plain torch; run by test_backend.py.

Usage: python backend_driver.py PACKAGE_FOLDER
"""

import importlib.util
import json
import os
import sys
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import functional

HIDDEN, HEADS, GROUPS, SIZE = 32, 4, 2, 8


def refusal(call: Any) -> str:
    """Return the error of a call that must fail, with its type."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def distance(got: Any, wanted: Any) -> float:
    return float((got.double() - wanted.double()).abs().max())


def facade() -> dict[str, Any]:
    """Ask the façade what Megatron asks."""
    with torch.device("meta"):
        on_meta = torch.arange(4).device.type
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    end.record()
    with torch.cuda.stream(torch.cuda.Stream()):
        tensor = torch.zeros(3, device="cuda:0", pin_memory=True).pin_memory().cuda()
    state = torch.cuda.get_rng_state()
    first = torch.rand(3)
    torch.cuda.set_rng_state(state)
    return {
        "meta": on_meta,
        "devices": [tensor.device.type, torch.cuda.current_device().type, torch.tensor([1], device="cuda").device.type],
        "elapsed": start.elapsed_time(end) >= 0,
        "same random numbers": torch.equal(first, torch.rand(3)),
        "available": torch.cuda.is_available(),
        "transformer_engine": importlib.util.find_spec("transformer_engine") is None,
    }


def config(**changes: Any) -> Any:
    from megatron.core.transformer.transformer_config import TransformerConfig
    from runtime.rank import cpu

    values: dict[str, Any] = {"normalization": "RMSNorm", "layernorm_epsilon": 1e-3, "use_cpu_initialization": True}
    made = TransformerConfig(
        num_layers=2, hidden_size=HIDDEN, num_attention_heads=HEADS, num_query_groups=GROUPS, **(values | changes)
    )
    cpu.adapt_config(made)
    return made


def norms() -> dict[str, Any]:
    """Compare norms with their definitions."""
    from megatron.core.extensions import transformer_engine

    x, out = torch.randn(5, 2, HIDDEN), {}
    for kind in ("RMSNorm", "LayerNorm"):
        for zero_centered in (False, True):
            norm = transformer_engine.TENorm(
                config(normalization=kind, layernorm_zero_centered_gamma=zero_centered), HIDDEN, 1e-3
            )
            torch.nn.init.normal_(norm.weight)
            factor = norm.weight + 1 if zero_centered else norm.weight
            if kind == "RMSNorm":
                wanted = x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * factor
            else:
                torch.nn.init.normal_(norm.bias)
                wanted = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-3).sqrt() * factor
                wanted = wanted + norm.bias
            out[f"{kind}, zero-centered {zero_centered}"] = distance(norm(x), wanted)
            assert type(norm).__name__ == kind
    return out


def linears() -> dict[str, Any]:
    """Compare linear layers with `functional.linear`, and list their parameters."""
    from megatron.core.extensions import transformer_engine as te

    x, out, names = torch.randn(5, 2, HIDDEN), {}, {}
    common: dict[str, Any] = {"config": config(), "init_method": torch.nn.init.normal_}
    makers = {
        "TELinear": lambda **k: te.TELinear(
            HIDDEN, 48, parallel_mode="duplicated", skip_weight_param_allocation=False, **common, **k
        ),
        "TEColumnParallelLinear": lambda **k: te.TEColumnParallelLinear(
            HIDDEN, 48, gather_output=False, is_expert=False, **common, **k
        ),
        "TELayerNormColumnParallelLinear": lambda **k: te.TELayerNormColumnParallelLinear(
            HIDDEN, 48, gather_output=False, is_expert=False, **common, **k
        ),
        "TERowParallelLinear": lambda **k: te.TERowParallelLinear(
            HIDDEN, 48, input_is_parallel=True, is_expert=False, **common, **k
        ),
    }
    for name, make in makers.items():
        for skip in (False, True):
            layer = make(bias=True, skip_bias_add=skip)
            torch.nn.init.normal_(layer.bias)
            wanted = x
            if "Norm" in name:
                torch.nn.init.normal_(layer.layer_norm_weight)
                wanted = functional.rms_norm(x, (HIDDEN,), layer.layer_norm_weight, 1e-3)
            got, bias = layer(x)
            assert (bias is layer.bias) == skip
            out[f"{name}, bias left {skip}"] = distance(
                got, functional.linear(wanted, layer.weight, None if skip else layer.bias)
            )
            names[name] = sorted(n for n, _ in layer.named_parameters())
    fused = makers["TELayerNormColumnParallelLinear"](bias=False, skip_bias_add=False)
    norm, linear = te.split_te_layernorm_column_parallel_linear(fused, common["config"], None, fused.tp_group)
    out["split"] = distance(linear(norm(x))[0], fused(x)[0])
    return {"distance": out, "parameters": names, "module": te.TELinear.__module__}


def attention() -> dict[str, Any]:
    """Compare attention over whole sequences with its definition."""
    from megatron.core.extensions.transformer_engine import TEDotProductAttention
    from megatron.core.transformer.enums import AttnMaskType

    q, k, v = torch.randn(6, 2, HEADS, SIZE), torch.randn(6, 2, GROUPS, SIZE), torch.randn(6, 2, GROUPS, SIZE)
    position = torch.arange(6)
    causal = position[None] <= position[:, None]

    def wanted(seen: Any, sink: Any = None) -> Any:
        keys, values = (t.repeat_interleave(HEADS // GROUPS, 2) for t in (k, v))
        scores = torch.einsum("qbhd,kbhd->bhqk", q, keys) * SIZE**-0.5
        scores = scores.masked_fill(~seen, float("-inf"))
        if sink is not None:
            scores = torch.cat([scores, sink[None, :, None, None].expand(2, -1, 6, 1)], -1)
        return torch.einsum("bhqk,kbhd->qbhd", scores.softmax(-1)[..., :6], values).flatten(2)

    def layer(kind: Any, **changes: Any) -> Any:
        return TEDotProductAttention(config(**changes), 1, kind, "self")

    none, full = AttnMaskType.no_mask, torch.ones(6, 6, dtype=torch.bool)
    hidden = torch.zeros(2, 1, 1, 6, dtype=torch.bool)
    hidden[1, ..., 4:] = True
    out = {
        "causal": distance(layer(AttnMaskType.causal)(q, k, v, None), wanted(causal)),
        "no mask": distance(layer(none)(q, k, v, None), wanted(full)),
        "overridden": distance(layer(none)(q, k, v, None, attn_mask_type=AttnMaskType.causal), wanted(causal)),
        "padding": distance(layer(AttnMaskType.padding)(q, k, v, hidden), wanted(~hidden)),
        "arbitrary": distance(layer(AttnMaskType.arbitrary)(q, k, v, ~causal[None, None]), wanted(causal)),
    }
    window = causal & (position[None] >= position[:, None] - 2)
    out["window"] = distance(layer(AttnMaskType.causal, window_size=(2, 0))(q, k, v, None), wanted(window))
    one = layer(AttnMaskType.causal, softmax_type="off-by-one")
    out["off by one"] = distance(one(q, k, v, None), wanted(causal, torch.zeros(HEADS)))
    learnable = layer(AttnMaskType.causal, softmax_type="learnable")
    torch.nn.init.normal_(learnable.softmax_offset)
    out["sink"] = distance(learnable(q, k, v, None), wanted(causal, learnable.softmax_offset))
    starts = torch.tensor([0, 4, 6])
    packed = SimpleNamespace(qkv_format="thd", cu_seqlens_q=starts, cu_seqlens_kv=starts)
    own = causal & ((position[None] < 4) == (position[:, None] < 4))
    got = layer(AttnMaskType.causal)(q[:, 0], k[:, 0], v[:, 0], None, packed_seq_params=packed)
    out["packed"] = distance(got, wanted(own)[:, 0])
    parallel = layer(AttnMaskType.causal, context_parallel_size=2)
    return {"distance": out, "context parallel": refusal(lambda: parallel(q, k, v, None))}


def main() -> dict[str, Any]:
    from runtime.rank import cpu

    early = refusal(cpu.after_import)
    cpu.install()
    cpu.install()
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    from megatron.core import parallel_state
    from megatron.core.activations import fast_gelu
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

    parallel_state.initialize_model_parallel()
    model_parallel_cuda_manual_seed(0)
    torch.manual_seed(0)
    expert_configs = [config(num_moe_experts=4, expert_model_parallel_size=size) for size in (1, 2)]
    with torch.no_grad():
        return {
            "early": early,
            "facade": facade(),
            "norms": norms(),
            "linears": linears(),
            "attention": attention(),
            "compiled": hasattr(fast_gelu, "_torchdynamo_orig_callable"),
            "dispatchers": [made.moe_token_dispatcher_type for made in expert_configs],
        }


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    print(json.dumps(main()))
