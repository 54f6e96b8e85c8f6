import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trition_repo_gen import checkpoints
from trition_repo_gen.checkpoints import Layout
from trition_repo_gen.repository.shares import stage_weights


@pytest.fixture(scope="module")
def outcome(in_megatron: Callable[..., Any], tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("checkpoints")
    return in_megatron(__file__, "loaders_driver.py", str(tiny_llama), str(out))


def test_a_checkpoint_comes_with_weights_tokenizer_and_vocabulary(outcome: Any) -> None:
    assert outcome["spread"] > 0.01
    assert outcome["eval"]
    assert outcome["text"] == "Yellow."
    assert outcome["vocabulary"] == 300
    assert outcome["eos"]


def test_a_build_knows_what_its_weights_take(outcome: Any) -> None:
    checkpoint = checkpoints.read(Path(outcome["saved"]))
    layout, _ = checkpoints.check(checkpoint, Layout())
    assert stage_weights(checkpoint, layout, 4) == [outcome["bytes"]]


def test_what_only_training_needs_is_off(outcome: Any) -> None:
    assert outcome["config"] == {
        "tp_comm_overlap": False,
        "recompute_granularity": None,
        "perform_initialization": False,
    }


def test_progress_says_what_is_loaded_and_how_far(outcome: Any) -> None:
    first, building, size, *steps, last = outcome["progress"]
    assert first.startswith("reading /")
    assert building == "building GPTModelProvider as float32, one rank"
    assert size.startswith("loading 0.") and size.endswith("MB of weights")
    assert steps[-2].startswith("loading weights: 100 % of 0.")
    assert re.fullmatch(r"read 0\.\d MB in \d+\.\d s, \d+\.\d\d GB/s", steps[-1])
    assert len(steps) <= 10
    assert last.startswith("loaded in ")


def test_bridge_alone_refuses_a_checkpoint_without_extra_state(outcome: Any) -> None:
    # Where this fails, loaders/weights.py need not filter any more.
    assert outcome["extra state"]["written"]
    assert "_extra_state" in outcome["extra state"]["bridge alone"]


@pytest.mark.parametrize("case", ["missing", "there", "not wanted", "missing, legacy"])
def test_extra_state_decides_nothing(case: str, outcome: Any) -> None:
    assert outcome["extra state"][case]


def test_a_missing_weight_is_named(outcome: Any) -> None:
    sentence = outcome["refusals"]["missing weight"]
    assert sentence.startswith("LoadError: ")
    assert "lacks the weight 'decoder.layers.self_attention.k_layernorm.weight' and 1 more; it is" in sentence


def test_a_path_that_is_gone_does_not_matter(outcome: Any) -> None:
    assert outcome["path gone"]
    assert outcome["other tokenizer"] > 256


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        (
            "no tokenizer",
            "the one it was saved with, /gone/tokenizer, is gone; set the parameter TOKENIZER",
        ),
        ("half a checkpoint", "Rank 0 cannot read /"),
        ("broken tokenizer", "set the parameter TOKENIZER to"),
        ("latents in parts", "SEQUENCE_PARALLEL is true; for multi-latent attention"),
        ("fused without a GPU", "FUSED_LAYERS is on, but this rank has no GPU; set it to auto."),
        ("graphs of stages", "ENABLE_CUDA_GRAPHS is true; more than one pipeline stage needs it false."),
        ("attention of its own", "compute attention by Capped, which the engine's paged attention does not do"),
        ("too few ranks", "1 ranks were started, but one replica needs 2; start a multiple of 2."),
    ],
)
def test_what_cannot_be_loaded_says_why(case: str, sentence: str, outcome: Any) -> None:
    assert outcome["refusals"][case].startswith("LoadError: ")
    assert sentence in outcome["refusals"][case]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_are_converted(dtype: str, outcome: Any) -> None:
    assert outcome["dtypes"][dtype] == [[f"torch.{dtype}"], True]


def test_latents_have_blocks_of_64(outcome: Any) -> None:
    assert outcome["blocks"] == [64, 64]


def test_megatron_core_is_mended_once(outcome: Any) -> None:
    assert outcome["fixes"] == [True, True, False]


def test_a_models_own_scale_reaches_the_engine(outcome: Any) -> None:
    assert outcome["scales"] == [None, 0.5]
