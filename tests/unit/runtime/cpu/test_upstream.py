"""Every patch says what it mends. Here is the text that needs mending: where it is gone, the patch can go, too."""

import subprocess
from pathlib import Path

import pytest

NEEDED = {
    "placeholder.install": ("bridge/peft/lora_layers.py", "\nimport transformer_engine.pytorch as te\n"),
    "backend.stages_without_cuda_check": ("core/inference/communication_utils.py", "assert tensor.is_cuda"),
    "backend.token_counts_as_numpy": (
        "core/transformer/moe/moe_utils.py",
        "if torch.is_tensor(tensor) and tensor.is_cuda:\n        cpu_tensor = ",
    ),
    "backend._with_current_version": (
        "core/extensions/transformer_engine_spec_provider.py",
        'if for_qk and not is_te_min_version("1.9.0")',
    ),
    "backend._without_compiler": ("core/jit.py", "jit_fuser = torch.compile"),
    "backend.default_norm": ("core/transformer/transformer_block.py", "if HAVE_TE:\n    from megatron.core.extensions"),
    "backend.fill_layer_names": (
        "core/transformer/attention.py",
        "SplitAlongDim, TELinear, TENorm, set_save_original_input = None, None, None, None",
    ),
    "backend.bridge_switches": ("bridge/models/deepseek/deepseek_v3_bridge.py", "use_transformer_engine=HAVE_TE"),
    "backend.paged_attention": ("core/transformer/attention.py", 'HAVE_FA4 or HAVE_FA3 or is_fa_min_version("2.7.3")'),
    "backend.append_to_cache_in_torch": (
        "core/inference/contexts/dynamic_context.py",
        "if triton_append_key_value_cache is not None and not self.cache_mla_latent",
    ),
    "facade.install_unpinned_memory": ("core/inference/contexts/dynamic_context.py", "pin_memory=True"),
    "upstream.fa4_without_split_kv": (
        "core/transformer/attention.py",
        "num_splits=0 if not self.batch_invariant_mode else 1",
    ),
    "upstream.mla_decode_only": (
        "core/transformer/multi_latent_attention.py",
        "                    kv_lengths,\n                    block_table,\n                )",
    ),
    "weights.checked": ("bridge/training/checkpointing.py", "def _generate_model_state_dict("),
    "weights._Meter": ("core/dist_checkpointing/strategies/torch.py", "def commit_tensor("),
}


@pytest.fixture(scope="module")
def megatron(megatron_python: Path) -> Path:
    """The folder of the installed package."""
    ask = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    run = subprocess.run([megatron_python, "-c", ask], capture_output=True, text=True, check=True)
    return Path(run.stdout.strip()) / "megatron"


@pytest.mark.parametrize("patch", NEEDED)
def test_upstream_still_needs_the_patch(patch: str, megatron: Path) -> None:
    file, text = NEEDED[patch]
    assert text in (megatron / file).read_text(encoding="utf-8"), f"{file} has changed: look at {patch} again"
