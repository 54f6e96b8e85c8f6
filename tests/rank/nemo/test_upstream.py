"""What is mended in nemo-toolkit is still so in the installed version, and the mend works."""

import importlib
import importlib.util
import sys
from types import ModuleType

import pytest

from tests.rank.upstream import Upstream, assert_needed
from trition_repo_gen.runtime.rank.loaders import upstream

STRATEGIES = "megatron.core.dist_checkpointing.strategies"
MENDS = {
    "upstream.without_tensorstore": Upstream(
        "nemo/utils/callbacks/dist_ckpt_io.py",
        "from megatron.core.dist_checkpointing.strategies import tensorstore",
    ),
    "upstream.projector_layers": Upstream(
        "nemo/collections/vlm/vision/base.py",
        "from megatron.core.transformer.custom_layers.transformer_engine import (\n        TEColumnParallelLinear,",
    ),
    "nemo2_layers.use_torch": Upstream(
        "nemo/collections/vlm/qwen2vl/model/base.py", "transformer_layer_spec = get_layer_spec_te(is_vit=True)"
    ),
}


@pytest.mark.parametrize("mend", MENDS)
def test_nemo_still_needs_the_mend(mend: str) -> None:
    assert_needed(mend, MENDS[mend])


def test_megatron_core_still_lacks_the_module_that_nemo_imports() -> None:
    assert importlib.util.find_spec(f"{STRATEGIES}.tensorstore") is None


def test_nemo_finds_the_module_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    strategies = importlib.import_module(STRATEGIES)
    monkeypatch.setitem(sys.modules, f"{STRATEGIES}.tensorstore", ModuleType("undone after the test"))
    monkeypatch.setattr(strategies, "tensorstore", None, raising=False)
    del sys.modules[f"{STRATEGIES}.tensorstore"]

    upstream.without_tensorstore()

    assert importlib.import_module(f"{STRATEGIES}.tensorstore") is strategies.tensorstore
