"""Tiny random Hugging Face models in fp32, for the families and layouts that the trained one does not show.

    python tests/models/random_models.py OUT NAME...      writes OUT/NAME for every name

Weights are sampled widely (0.3), and norms and biases moved off their trivial start, so that a wrongly mapped parameter
changes the answer. Deterministic per name. Runs in the environment of the ranks.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

TOKENIZER = Path(__file__).resolve().parents[2] / "examples" / "tiny_llama"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}
MLA: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
    "num_nextn_predict_layers": 0,
}
MOE: dict[str, Any] = {
    "head_dim": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 96,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}


def _llama(**changes: Any) -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES | changes))


WIDE: dict[str, Any] = {"hidden_size": 256, "initializer_range": 0.1}
"""For GPUs: FlashAttention wants heads of at least 64."""
MLA_WIDE: dict[str, Any] = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
"""FlashMLA knows only DeepSeek's own sizes."""
GPT_OSS: dict[str, Any] = {
    "head_dim": 64,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 32,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}

MODELS: dict[str, Callable[[], Any]] = {
    "llama": _llama,
    "llama_6_layers": lambda: _llama(num_hidden_layers=6),  # PP=4 needs uneven first and last stages
    "llama_mqa": lambda: _llama(num_key_value_heads=1),  # one query group: TP=2 must be refused
    "llama_3_heads": lambda: _llama(hidden_size=48, num_attention_heads=3, num_key_value_heads=3),  # only TP=1 and TP=3
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZES | {"tie_word_embeddings": True})),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SIZES, head_dim=16)),
    "qwen3moe": lambda: transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**SIZES | MOE)),
    # Keys further back than the window count for nothing: the prompts of the parity tests are longer.
    "mistral": lambda: transformers.MistralForCausalLM(
        transformers.MistralConfig(**SIZES, head_dim=16, sliding_window=8)
    ),
    "qwen2_wide": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZES | WIDE)),
    "qwen3_wide": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SIZES | WIDE, head_dim=64)),
    "qwen3moe_wide": lambda: transformers.Qwen3MoeForCausalLM(
        transformers.Qwen3MoeConfig(**SIZES | MOE | WIDE | {"head_dim": 64})
    ),
    "gptoss_wide": lambda: transformers.GptOssForCausalLM(transformers.GptOssConfig(**SIZES | WIDE | GPT_OSS)),
    "mistral_wide": lambda: transformers.MistralForCausalLM(
        transformers.MistralConfig(**SIZES | WIDE | {"head_dim": 64, "sliding_window": 32})
    ),
    "deepseekv3": lambda: transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**SIZES | MLA)),
    "deepseekv3_wide": lambda: transformers.DeepseekV3ForCausalLM(
        transformers.DeepseekV3Config(**SIZES | WIDE | MLA | MLA_WIDE)
    ),
}


def make(name: str, out: Path) -> None:
    """Writes model ``name`` (a key of `MODELS`) with the byte-level tokenizer into the folder ``out``, replacing it."""
    torch.manual_seed(0)
    model = MODELS[name]().float().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(out)
    for file in TOKENIZER_FILES:
        shutil.copyfile(TOKENIZER / file, out / file)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("names", nargs="+", metavar="NAME", choices=MODELS, help=f"one of {', '.join(MODELS)}")
    arguments = parser.parse_args()
    for name in arguments.names:
        make(name, arguments.out / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
