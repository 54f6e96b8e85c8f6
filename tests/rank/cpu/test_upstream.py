"""What the CPU backend changes in Megatron is still so in the installed version."""

import pytest

from tests.rank.upstream import Upstream, assert_needed, functions_of
from trition_repo_gen.runtime.rank.cpu import backend, facade, placeholder

ATTENTION = "megatron/core/transformer/attention.py"
CONTEXT = "megatron/core/inference/contexts/dynamic_context.py"
EXTENSIONS = "megatron/core/extensions/transformer_engine.py"
MENDS = {
    "placeholder.install": Upstream(
        "megatron/bridge/peft/lora_layers.py", "\nimport transformer_engine.pytorch as te\n"
    ),
    "facade.install_cuda": Upstream(
        "megatron/core/inference/text_generation_controllers/text_generation_controller.py",
        "device = torch.cuda.current_device()",
    ),
    "facade.install_unpinned_memory": Upstream(CONTEXT, "pin_memory=True"),
    "backend._without_compiler": Upstream("megatron/core/jit.py", "jit_fuser = torch.compile"),
    "backend._with_layers": Upstream(EXTENSIONS, "class TELinear(te.pytorch.Linear):"),
    "backend._with_current_version": Upstream(
        "megatron/core/extensions/transformer_engine_spec_provider.py",
        'if for_qk and not is_te_min_version("1.9.0")',
    ),
    "backend.fill_layer_names": Upstream(
        ATTENTION, "SplitAlongDim, TELinear, TENorm, set_save_original_input = None, None, None, None"
    ),
    "backend.default_norm": Upstream(
        "megatron/core/transformer/transformer_block.py", "if HAVE_TE:\n    from megatron.core.extensions"
    ),
    "backend.bridge_switches": Upstream(
        "megatron/bridge/models/deepseek/deepseek_v3_bridge.py", "use_transformer_engine=HAVE_TE"
    ),
    "backend.token_counts_as_numpy": Upstream(
        "megatron/core/transformer/moe/moe_utils.py",
        "if torch.is_tensor(tensor) and tensor.is_cuda:\n        cpu_tensor = ",
    ),
    "backend.stages_without_cuda_check": Upstream(
        "megatron/core/inference/communication_utils.py", "assert tensor.is_cuda"
    ),
    "backend.paged_attention": Upstream(ATTENTION, 'HAVE_FA4 or HAVE_FA3 or is_fa_min_version("2.7.3")'),
    "backend.append_to_cache_in_torch": Upstream(
        CONTEXT, "if triton_append_key_value_cache is not None and not self.cache_mla_latent"
    ),
}
ORDER = {"backend.install", "backend.install_facade", "backend.after_import", "backend._loaded"}
"""Functions that only call the others."""


@pytest.mark.parametrize("mend", MENDS)
def test_megatron_still_needs_the_mend(mend: str) -> None:
    assert_needed(mend, MENDS[mend])


def test_every_mend_is_tested() -> None:
    found = {f"backend.{name}" for name in functions_of(backend)} - ORDER
    found |= {f"facade.{name}" for name in functions_of(facade) if name.startswith("install")}
    found |= {f"placeholder.{name}" for name in functions_of(placeholder) if name == "install"}
    assert found == set(MENDS)
