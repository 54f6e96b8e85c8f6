"""A Megatron-Bridge checkpoint of a random Llama, for speed: nothing can be told from its answers.

    python bench/gpu/make_random_model.py TOKENIZER_FOLDER OUT [--shape 8b|1b|tiny]

Runs in the ranks' environment. The weights are drawn on the GPU, where there is one, and saved in bfloat16.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
from make_checkpoint import load_libraries

SHAPES: dict[str, dict[str, int]] = {  # Llama-3.1-8B, Llama-3.2-1B without tied embeddings, and one for a rehearsal
    "8b": {
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "1b": {
        "num_hidden_layers": 16,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "tiny": {
        "num_hidden_layers": 2,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer", type=Path, help="a folder with a tokenizer in Hugging Face format")
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    arguments = parser.parse_args()

    on_cpu = load_libraries()
    import torch
    from megatron.bridge import AutoBridge
    from megatron.bridge.training.model_load_save import temporary_distributed_context
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
    from transformers import LlamaConfig

    config = LlamaConfig(
        **SHAPES[arguments.shape],
        max_position_embeddings=8192,
        rope_theta=500000.0,
        tie_word_embeddings=False,
        rms_norm_eps=1e-5,
        torch_dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    with temporary_distributed_context("gloo" if on_cpu else "nccl"):
        model_parallel_cuda_manual_seed(0)
        bridge = AutoBridge.from_hf_config(config)
        provider: Any = bridge.to_megatron_provider(load_weights=False)
        if on_cpu:
            from runtime.rank import cpu

            cpu.adapt_config(provider, torch.bfloat16)
        provider.gradient_accumulation_fusion = False
        provider.params_dtype = provider.pipeline_dtype = torch.bfloat16
        provider.bf16, provider.fp16 = True, False
        provider.perform_initialization = True
        provider.finalize()
        model = provider.provide_distributed_model(wrap_with_ddp=False, use_cpu_initialization=on_cpu)
        bridge.save_megatron_model(model, arguments.out, hf_tokenizer_path=str(arguments.tokenizer))
    print(f"{arguments.out} is written.")


if __name__ == "__main__":  # needed beyond habit: saving spawns a process that imports this file again
    main()
