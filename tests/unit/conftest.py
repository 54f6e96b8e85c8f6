"""Fixtures that the unit tests of several rooms share."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit import index_files

# The part of a real run_config.yaml (Megatron-Bridge 0.6.2, converted from a tiny Llama) that a build reads, and a few
# of the entries around it. Real ones have 500 lines.
RUN_CONFIG: dict[str, Any] = {
    "_target_": "megatron.bridge.training.config.ConfigContainer",
    "checkpoint": {"_target_": "megatron.bridge.training.config.CheckpointConfig", "ckpt_format": "torch_dist"},
    "mixed_precision": None,
    "model": {
        "_target_": "megatron.bridge.models.gpt_provider.GPTModelProvider",
        "activation_func": {"_call_": False, "_target_": "torch.nn.functional.silu"},
        "bf16": False,
        "ffn_hidden_size": 128,
        "fp16": False,
        "hf_model_id": "somebody/tiny-llama",
        "hidden_size": 64,
        "init_method": {"_args_": [], "_partial_": True, "_target_": "torch.nn.init.normal_", "mean": 0.0, "std": 0.3},
        "kv_channels": 16,
        "moe_ffn_hidden_size": None,
        "moe_layer_freq": 1,
        "moe_shared_expert_intermediate_size": None,
        "multi_latent_attention": False,
        "num_attention_heads": 4,
        "num_layers": 4,
        "num_moe_experts": None,
        "num_query_groups": 2,
        "params_dtype": {"_call_": False, "_target_": "torch.float32"},
        "pipeline_model_parallel_size": 1,
        "seq_length": 512,
        "should_pad_vocab": False,
        "tensor_model_parallel_size": 1,
        "vocab_size": 512,
        "window_size": None,
    },
    "peft": None,
    "tokenizer": {
        "_target_": "megatron.bridge.training.tokenizers.config.TokenizerConfig",
        "tokenizer_model": "/nowhere/tiny-llama",
        "tokenizer_type": "HuggingFaceTokenizer",
    },
}

MakeCheckpoint = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def _no_gpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test may depend on the GPUs of the machine that runs it."""
    folder = tmp_path_factory.mktemp("no gpu")
    (folder / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (folder / "nvidia-smi").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        yield


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> MakeCheckpoint:
    """Return a function that writes a whole Megatron-Bridge checkpoint, without weights in it, and returns its root.

    Keywords are entries of run_config.yaml's `model` section; `sections` are whole sections; `shapes` are those of the
    weights that the index lists.
    """

    def make(
        name: str = "checkpoint", iteration: int = 0, *, sections: Any = None, shapes: Any = None, **model: Any
    ) -> Path:
        root = tmp_path / name
        folder = root / f"iter_{iteration:07d}"
        (folder / "tokenizer").mkdir(parents=True)
        (folder / "tokenizer" / "tokenizer.json").write_text("{}")
        config = {**RUN_CONFIG, "model": {**RUN_CONFIG["model"], **model}, **(sections or {})}
        (folder / "run_config.yaml").write_text(yaml.safe_dump(config))
        (folder / "metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')
        # A real index is a pickle in which the shards' names stand like this.
        (folder / ".metadata").write_bytes(b"\x80\x04relative_path\x94\x8c\r__0_0.distcp\x94\x8c\r__0_1.distcp\x94.")
        if shapes is not None:
            index_files.write(folder, shapes, ("__0_0.distcp", "__0_1.distcp"))
        for shard in ("__0_0.distcp", "__0_1.distcp"):
            (folder / shard).write_bytes(b"weights!")
        (folder / "train_state.pt").write_bytes(b"state")
        (root / "latest_train_state.pt").write_bytes(b"state")
        (root / "latest_checkpointed_iteration.txt").write_text(str(iteration))
        return root

    return make
