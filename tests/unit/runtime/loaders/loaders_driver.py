"""Saves tiny random checkpoints and loads them in many ways; run by test_megatron_bridge.py.

Usage: python loaders_driver.py PACKAGE_FOLDER TOKENIZER OUT
"""

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch


def provider() -> Any:
    """Describe a model of two layers."""
    from megatron.bridge.models.gpt_provider import GPTModelProvider
    from runtime.rank import cpu

    made = GPTModelProvider(
        num_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=48,
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        position_embedding_type="rope",
        seq_length=128,
        vocab_size=300,
        should_pad_vocab=True,
        share_embeddings_and_output_weights=False,
        tp_comm_overlap=True,
        recompute_granularity="full",
        recompute_method="uniform",
        recompute_num_layers=1,
    )
    cpu.adapt_config(made, torch.float32)
    return made


def save(folder: Path, tokenizer: Path) -> Path:
    """Write a checkpoint as Bridge does; return its `iter_*` folder."""
    from megatron.bridge.training.model_load_save import save_megatron_model, temporary_distributed_context
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

    with temporary_distributed_context("gloo"):
        model_parallel_cuda_manual_seed(0)
        made = provider()
        made.finalize()
        model = made.provide_distributed_model(wrap_with_ddp=False, use_cpu_initialization=True)
        save_megatron_model(model, folder, hf_tokenizer_path=tokenizer)
    return folder / "iter_0000000"


class ExtraState:
    """As long as it is the context, norms have Transformer Engine's entry beside their weight, an empty tensor."""

    def __enter__(self) -> None:
        from runtime.rank.cpu.transformer_engine import _Norm

        _Norm.get_extra_state = lambda self: torch.empty(0, dtype=torch.uint8)
        _Norm.set_extra_state = lambda self, state: None

    def __exit__(self, *_: object) -> None:
        from runtime.rank.cpu.transformer_engine import _Norm

        del _Norm.get_extra_state, _Norm.set_extra_state


def load(checkpoint: Path, **settings: Any) -> tuple[Any, list[str]]:
    """Load as a rank does; return what came and the lines of progress."""
    from megatron.core import parallel_state
    from runtime.common.settings import Settings
    from runtime.rank.loaders import bridge_text

    lines: list[str] = []
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        values = {"checkpoint": str(checkpoint), "params_dtype": "float32"} | settings
        return bridge_text.load(Settings(**values), on_cpu=True, progress=lines.append), lines
    finally:
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()


def refusal(*arguments: Any, **settings: Any) -> str:
    """Return the error of a load that must fail, with its type."""
    try:
        load(*arguments, **settings)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def changed(checkpoint: Path, name: str, *replacements: tuple[str, str]) -> Path:
    """Copy a checkpoint and change the text of its run_config.yaml."""
    copy = checkpoint.parent.parent / name / checkpoint.name
    shutil.copytree(checkpoint, copy)
    file = copy / "run_config.yaml"
    text = file.read_text(encoding="utf-8")
    for old, new in replacements:
        assert old in text, old
        text = text.replace(old, new)
    file.write_text(text, encoding="utf-8")
    return copy


def weights(loaded: Any) -> dict[str, Any]:
    return {name: parameter.detach().float() for name, parameter in loaded.model.named_parameters()}


def same(one: Any, other: Any, tolerance: float = 0.0) -> bool:
    """Return whether two models have the same weights."""
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.allclose(a[name], b[name], atol=tolerance, rtol=tolerance) for name in a)


def without_our_filter(checkpoint: Path) -> str:
    """Return what Bridge alone says about the checkpoint."""
    from contextlib import nullcontext

    from runtime.rank.loaders import weights as module

    original, module.checked = module.checked, lambda *_: nullcontext()
    try:
        return refusal(checkpoint)
    finally:
        module.checked = original


def own_attention(model: Any) -> tuple[str, list[float | None]]:
    """Return the refusal of a family's own core attention, and a layer's scale before and after one is asked for."""
    from runtime.rank.engines.core.attention_kernels import require_paged

    attention = model.decoder.layers[0].self_attention
    scales = [getattr(attention, "softmax_scale", None)]
    attention.config.softmax_scale = 0.5
    require_paged(model)
    scales.append(attention.softmax_scale)
    attention.core_attention = type("Capped", (type(attention.core_attention),), {})(
        *(attention.config, 1, None, "self"), softmax_scale=1.0
    )
    try:
        require_paged(model)
    except Exception as error:
        return f"{type(error).__name__}: {error}", scales
    return "no error", scales


def main(tokenizer: Path, out: Path) -> dict[str, Any]:
    from runtime.rank import cpu

    cpu.install()
    from runtime.common.settings import Settings
    from runtime.rank.engines.core import upstream
    from runtime.rank.engines.core.loaded import kv_block_size
    from runtime.rank.loaders import bridge_text, layout
    from runtime.rank.loaders import weights as weights_module

    cpu.after_import()
    plain = save(out / "plain", tokenizer)
    reference, lines = load(plain)
    result: dict[str, Any] = {
        "progress": lines,
        "eval": not reference.model.training,
        "eos": reference.eos_ids,
        "vocabulary": reference.vocab_size,
        "saved": str(plain),
        "bytes": sum(parameter.nbytes for parameter in reference.model.parameters()),
        "config": {
            name: getattr(reference.model.config, name)
            for name in ("tp_comm_overlap", "recompute_granularity", "perform_initialization")
        },
        "text": reference.tokenizer.decode(reference.tokenizer("Yellow.")["input_ids"], skip_special_tokens=True),
        "spread": float(weights(reference)["embedding.word_embeddings.weight"].std()),
    }
    with ExtraState():
        rich = save(out / "rich", tokenizer)
        result["extra state"] = {
            "written": any("final_layernorm._extra_state" in key for key in weights_module.stored_keys(rich)),
            "bridge alone": without_our_filter(plain),
            "missing": same(load(plain)[0], reference),
            "there": same(load(rich)[0], reference),
            "missing, legacy": same(load(plain, legacy_checkpoint=True)[0], reference),
        }
    result["extra state"]["not wanted"] = same(load(rich)[0], reference)

    more = changed(plain, "more", ("qk_layernorm: false", "qk_layernorm: true"))
    gone = changed(plain, "gone", (str(tokenizer), "/gone/tokenizer"))
    bare = changed(plain, "bare", (str(tokenizer), "/gone/tokenizer"))
    shutil.rmtree(bare / "tokenizer")
    broken = changed(plain, "broken")
    (broken / "tokenizer" / "tokenizer.json").write_text("{", encoding="utf-8")
    half = changed(plain, "half")
    next(half.glob("*.distcp")).unlink()
    result["refusals"] = {
        "half a checkpoint": refusal(half),
        "missing weight": refusal(more),
        "no tokenizer": refusal(bare),
        "broken tokenizer": refusal(broken),
        "too few ranks": refusal(plain, tensor_parallel_size=2),
        "fused without a GPU": refusal(plain, fused_layers="on"),
    }
    result["refusals"]["attention of its own"], result["scales"] = own_attention(load(plain)[0].model)
    result["path gone"] = same(load(gone)[0], reference)
    result["other tokenizer"] = len(load(bare, tokenizer=str(tokenizer))[0].tokenizer)
    result["dtypes"] = {}
    for dtype in ("float16", "bfloat16"):
        loaded, _ = load(plain, params_dtype=dtype)
        found = {str(parameter.dtype) for parameter in loaded.model.parameters()}
        close = same(dataclasses.replace(loaded, model=loaded.model.module), reference, 2e-2)
        result["dtypes"][dtype] = [sorted(found), close]

    latent_parts = SimpleNamespace(sequence_parallel=True, multi_latent_attention=True)
    try:
        layout.check(latent_parts, None)
    except bridge_text.LoadError as error:
        result["refusals"]["latents in parts"] = f"LoadError: {error}"
    recorded = SimpleNamespace(sequence_parallel=False, cuda_graph_impl="local", num_moe_experts=None)
    try:
        layout.check(recorded, Settings(checkpoint="", pipeline_parallel_size=2))
    except bridge_text.LoadError as error:
        result["refusals"]["graphs of stages"] = f"LoadError: {error}"
    latents = dataclasses.make_dataclass("Config", ["multi_latent_attention"])(True)
    result["blocks"] = [kv_block_size(config) for config in (reference.model.config, latents)]
    result["fixes"] = [upstream.mla_decode_only(), upstream.mla_decode_only(), upstream.fa4_without_split_kv()]
    return result


if __name__ == "__main__":  # saving starts a process that imports this file again
    sys.path.insert(0, sys.argv[1])
    print(json.dumps(main(Path(sys.argv[2]), Path(sys.argv[3]))))
