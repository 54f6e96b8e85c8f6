"""Every patch says what it mends. Here is the text that needs mending: where it is gone, the patch can go, too."""

import ast
import subprocess
from pathlib import Path

import pytest

from trition_repo_gen.runtime.rank import loaders

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
    "upstream.metadata_after_async_step": (
        "core/inference/text_generation_controllers/text_generation_controller.py",
        'for label in ("temperature", "top_k", "top_p"):\n            compacted_metadata = ',
    ),
    "upstream.use_sampling": (
        "core/inference/text_generation_controllers/text_generation_controller.py",
        "self._sampling: Sampling = TorchSampling(self.sampling_rng, self.vocab_size)",
    ),
    "upstream.without_detokenization": (
        "core/inference/engines/dynamic_engine.py",
        'if not self.use_coordinator:\n            nvtx_range_push("detokenization")',
    ),
    "upstream.without_logits_copy": (
        "core/inference/text_generation_controllers/text_generation_controller.py",
        "self._all_logits_cuda[:, :logits_seq_len, :].copy_(logits[:, :logits_seq_len, :])",
    ),
    "upstream.allow_prompt_log_probs": (
        "core/inference/engines/dynamic_engine.py",
        "assert not self.materialize_only_last_token_logits",
    ),
    "upstream.schedule_by": (
        "core/inference/engines/dynamic_engine.py",
        "        else:\n            self.schedule_non_chunked_prefill()\n",
    ),
    "upstream.record_few_sequences": (
        "core/inference/batch_dimensions_utils.py",
        "rounded = math.ceil(rounded / tp_size) * tp_size",
    ),
    "upstream.record_long_steps": ("core/inference/config.py", "cuda_graph_max_tokens: int = 512"),
    "upstream.logits_in_model_dtype": ("core/transformer/module.py", "def forward(self, *inputs, fp32_output=True"),
    "loaders.upstream.requested_weights": ("bridge/training/checkpointing.py", "def _generate_model_state_dict("),
    "loaders.upstream.committed_bytes": ("core/dist_checkpointing/strategies/torch.py", "def commit_tensor("),
    "loaders.upstream.read_data_by": (
        "../torch/distributed/checkpoint/filesystem.py",
        "    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:",
    ),
}
NEEDED_BY_NEMO = {
    "loaders.upstream.without_tensorstore": (
        "nemo/utils/callbacks/dist_ckpt_io.py",
        "from megatron.core.dist_checkpointing.strategies import tensorstore",
    ),
    "loaders.upstream.projector_layers": (
        "nemo/collections/vlm/vision/base.py",
        "from megatron.core.transformer.custom_layers.transformer_engine import ",
    ),
}


@pytest.fixture(scope="module")
def megatron(megatron_python: Path) -> Path:
    """The folder of the installed package."""
    return _packages(megatron_python) / "megatron"


@pytest.fixture(scope="module")
def nemo(nemo_python: Path) -> Path:
    """The packages of NeMo's environment."""
    return _packages(nemo_python)


def _packages(python: Path) -> Path:
    ask = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    run = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    return Path(run.stdout.strip())


@pytest.mark.parametrize("patch", NEEDED)
def test_upstream_still_needs_the_patch(patch: str, megatron: Path) -> None:
    file, text = NEEDED[patch]
    assert text in (megatron / file).read_text(encoding="utf-8"), f"{file} has changed: look at {patch} again"


@pytest.mark.parametrize("patch", NEEDED_BY_NEMO)
def test_nemo_still_needs_the_patch(patch: str, nemo: Path) -> None:
    file, text = NEEDED_BY_NEMO[patch]
    assert text in (nemo / file).read_text(encoding="utf-8"), f"{file} has changed: look at {patch} again"


def test_every_patch_is_looked_after() -> None:
    """Each public function of the rooms' upstream modules has an entry."""
    rank = Path(loaders.__file__).parents[1]
    for module, prefix in (("engines/core/upstream.py", "upstream"), ("loaders/upstream.py", "loaders.upstream")):
        tree = ast.parse((rank / module).read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        public = {f"{prefix}.{name}" for name in functions if not name.startswith("_") and name != "apply"}
        assert public <= NEEDED.keys() | NEEDED_BY_NEMO.keys()
