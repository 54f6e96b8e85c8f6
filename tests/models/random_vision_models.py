"""Tiny random Hugging Face models that take images, in fp32, each with a processor and a chat template.

    python tests/models/random_vision_models.py OUT NAME...      writes OUT/NAME for every name

Weights are sampled widely, and norms and biases moved off their trivial start, so that a wrongly mapped parameter
changes the answer. Deterministic per name. Runs in NeMo's environment: transformers 5 reads what 4 writes, and 4 not
what 5 writes.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "tiny_qwen_vl"))
import qwen_folder

# NeMo's class wants heads of 128. Four of them in two groups, and four layers, can be sharded in two either way.
TEXT: dict[str, Any] = {
    "vocab_size": qwen_folder.VOCAB_SIZE,
    "hidden_size": 512,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "use_sliding_window": False,
    "bos_token_id": qwen_folder.BOS,
    "eos_token_id": qwen_folder.EOS,
    "pad_token_id": qwen_folder.PAD,
}
VISION: dict[str, Any] = {
    "depth": 3,
    "num_heads": 4,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "in_channels": 3,
}


def _qwen2vl() -> Any:
    """The two smallest published ones share the embedding with the output layer; so does this."""
    return transformers.Qwen2VLForConditionalGeneration(
        transformers.Qwen2VLConfig(
            text_config=TEXT | {"tie_word_embeddings": True},
            vision_config=VISION | {"embed_dim": 64, "hidden_size": TEXT["hidden_size"], "mlp_ratio": 2},
            tie_word_embeddings=True,
            **qwen_folder.MARKS,
        )
    )


def _qwen25vl() -> Any:
    """Its second vision layer attends to whole images, the others to windows of 112 pixels."""
    vision = {"hidden_size": 64, "intermediate_size": 128, "out_hidden_size": TEXT["hidden_size"]}
    return transformers.Qwen2_5_VLForConditionalGeneration(
        transformers.Qwen2_5_VLConfig(
            text_config=TEXT,
            vision_config=VISION | vision | {"fullatt_block_indexes": [1], "window_size": 112},
            tie_word_embeddings=False,
            **qwen_folder.MARKS,
        )
    )


def _qwen3vl() -> Any:
    text = TEXT | {
        "head_dim": 128,
        "rope_scaling": {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True},
    }
    vision = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "out_hidden_size": TEXT["hidden_size"],
        "patch_size": 16,
        "num_position_embeddings": 256,
        "deepstack_visual_indexes": [0, 1],
    }
    return transformers.Qwen3VLForConditionalGeneration(
        transformers.Qwen3VLConfig(
            text_config=text, vision_config=VISION | vision, tie_word_embeddings=False, **qwen_folder.MARKS
        )
    )


MODELS: dict[str, Callable[[], Any]] = {"qwen2vl": _qwen2vl, "qwen25vl": _qwen25vl, "qwen3vl": _qwen3vl}


def make(name: str, out: Path) -> None:
    """Writes model ``name`` (a key of `MODELS`) with its processor into the folder ``out``, replacing it."""
    torch.manual_seed(0)
    model = MODELS[name]().float().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.08)
        if model.lm_head.weight is not model.get_input_embeddings().weight:
            # A mark that the model wrote itself would be taken for an image where its answer is read anew.
            model.lm_head.weight[256:] = 0
    shutil.rmtree(out, ignore_errors=True)
    qwen_folder.save(model, out, name, min_tokens=4, max_tokens=64)


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
