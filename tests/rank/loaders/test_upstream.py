"""What loading replaces or respects in Megatron and torch is still so in the installed versions.

That Megatron-Bridge refuses a checkpoint without extra state is tested in test_megatron_bridge.py.
"""

import pytest

from tests.rank.upstream import Upstream, assert_needed, functions_of
from trition_repo_gen.runtime.rank.loaders import upstream

MENDS = {
    "upstream.requested_weights": Upstream(
        "megatron/bridge/training/checkpointing.py", "def _generate_model_state_dict("
    ),
    "upstream.committed_bytes": Upstream("megatron/core/dist_checkpointing/strategies/torch.py", "def commit_tensor("),
    # One tensor after another is unpickled.
    "upstream.read_data_by": Upstream(
        "torch/distributed/checkpoint/filesystem.py",
        "                            torch.load(\n                                seekable,",
    ),
    "layout._set_cuda_graphs": Upstream(
        "megatron/bridge/models/gpt_provider.py", 'assert getattr(self, "use_te_rng_tracker", False)'
    ),
    # Of a part of the sequence, and of all of it.
    "layout.check": Upstream(
        "megatron/core/transformer/multi_latent_attention.py",
        "kv_cached = torch.cat([kv_compressed, k_pos_emb_squeezed], dim=-1)",
    ),
}


@pytest.mark.parametrize("mend", MENDS)
def test_upstream_still_needs_the_mend(mend: str) -> None:
    assert_needed(mend, MENDS[mend])


def test_every_mend_is_tested() -> None:
    nemos = {"without_tensorstore", "projector_layers"}  # in tests/rank/nemo
    functions = {name for name in functions_of(upstream) if not name.startswith("_")}
    assert {f"upstream.{name}" for name in functions - nemos} <= MENDS.keys()
