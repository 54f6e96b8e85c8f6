import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trition_repo_gen.checkpoints import Checkpoint, Layout, check, sequence_length
from trition_repo_gen.errors import LayoutError

DENSE = Checkpoint(
    kind="megatron_bridge",
    root=Path("/checkpoint"),
    iteration=Path("/checkpoint/iter_0000000"),
    family="llama",
    dtype="bfloat16",
    weights_bytes=1,
    num_layers=12,
    hidden_size=64,
    ffn_hidden_size=5040,
    num_attention_heads=12,
    num_query_groups=4,
    kv_channels=8,
    multi_latent_attention=False,
    vocab_size=5040,
    pads_vocab=False,
    max_sequence_length=8192,
    tokenizer="/checkpoint/iter_0000000/tokenizer",
    tokenizer_type="HuggingFaceTokenizer",
)
MOE = replace(DENSE, num_moe_experts=12, moe_ffn_hidden_size=96, has_dense_layers=False)

# Flag in a sentence → the field that it sets.
FIELDS = {
    "tensor-parallel-size": "tensor_parallel_size",
    "pipeline-parallel-size": "pipeline_parallel_size",
    "num-layers-in-first-pipeline-stage": "num_layers_in_first_pipeline_stage",
    "num-layers-in-last-pipeline-stage": "num_layers_in_last_pipeline_stage",
    "expert-parallel-size": "expert_parallel_size",
    "expert-tensor-parallel-size": "expert_tensor_parallel_size",
    "num-gpus": "num_gpus",
}


def layout(**sizes: Any) -> Layout:
    short = {"tp": "tensor", "pp": "pipeline", "cp": "context", "ep": "expert", "etp": "expert_tensor"}
    return Layout(**{f"{short[key]}_parallel_size" if key in short else key: size for key, size in sizes.items()})


@pytest.mark.parametrize(
    ("checkpoint", "asked", "sentence"),
    [
        (
            DENSE,
            {"tp": 5},
            "12 attention heads, which 5 tensor-parallel ranks cannot share; write --tensor-parallel-size 4",
        ),
        (
            DENSE,
            {"tp": 6},
            "4 query groups, which 6 tensor-parallel ranks cannot share; write --tensor-parallel-size 4",
        ),
        (replace(DENSE, num_query_groups=12, ffn_hidden_size=64), {"tp": 12}, "feed-forward size of 64, which 12"),
        (replace(DENSE, vocab_size=511), {"tp": 4}, "a vocabulary of 511, which 4 tensor-parallel ranks cannot share"),
        (replace(MOE, moe_shared_expert_size=50), {"tp": 4}, "shared experts with a feed-forward size of 50"),
        (DENSE, {"pp": 5}, "has 12 layers, which 5 pipeline stages cannot share; write --pipeline-parallel-size 4"),
        (
            DENSE,
            {"pp": 4, "account_for_embedding_in_pipeline_split": True},
            "12 layers (with embedding or loss counted as one), which 4 pipeline stages",
        ),
        (
            DENSE,
            {"pp": 4, "num_layers_in_first_pipeline_stage": 2},
            "cannot be spread over 4 pipeline stages with 2 in the first one; "
            "write --num-layers-in-first-pipeline-stage 3",
        ),
        (DENSE, {"pp": 3, "num_layers_in_last_pipeline_stage": 1}, "write --num-layers-in-last-pipeline-stage 2"),
        (
            DENSE,
            {"pp": 2, "num_layers_in_first_pipeline_stage": 5, "num_layers_in_last_pipeline_stage": 6},
            "write --num-layers-in-first-pipeline-stage 6",
        ),
        (DENSE, {"pp": 24}, "12 layers, which 24 pipeline stages cannot share; write --pipeline-parallel-size 12"),
        (DENSE, {"num_layers_in_first_pipeline_stage": 3}, "one pipeline stage, which holds all 12 layers"),
        (DENSE, {"ep": 2}, "no experts that 2 ranks could share; write --expert-parallel-size 1"),
        (MOE, {"ep": 8}, "12 experts, which 8 ranks cannot share evenly; write --expert-parallel-size 6"),
        (
            MOE,
            {"ep": 2, "etp": 5},
            "feed-forward size of 96, which 5 ranks cannot share; write --expert-tensor-parallel-size 4",
        ),
        (
            DENSE,
            {"tp": 4, "pp": 2, "num_gpus": 4},
            "needs 8 ranks (TP 4, PP 2), one GPU each, and there are 4 (4 GPUs)",
        ),
        (DENSE, {"tp": 4, "num_gpus": 1, "num_nodes": 2}, "there are 2 (1 GPU on each of 2 nodes); write --num-gpus 2"),
        (DENSE, {"tp": 4, "num_gpus": 7}, "a multiple of 4 ranks (TP 4), which 7 GPUs are not; write --num-gpus 8"),
        (DENSE, {"tp": 4, "num_gpus": 5}, "write --num-gpus 4"),
        (MOE, {"ep": 4, "num_gpus": 2}, "needs 4 ranks (EP 4), one GPU each, and there are 2 (2 GPUs)"),
    ],
)
def test_a_layout_that_cannot_work_names_the_number_to_use(
    checkpoint: Checkpoint, asked: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(LayoutError, match=re.escape(sentence)) as refusal:
        check(checkpoint, layout(**asked))
    text = str(refusal.value)
    assert text.endswith(".")
    assert ". " not in text, "one sentence"
    advice = dict(re.findall(r"write --([a-z-]+) (\d+)", text))
    changes: dict[str, Any] = {FIELDS[flag]: int(number) for flag, number in advice.items()}
    better = replace(layout(**asked), **changes)
    check(checkpoint, better)


@pytest.mark.parametrize(
    "asked", [{"account_for_embedding_in_pipeline_split": True}, {"account_for_loss_in_pipeline_split": True}]
)
def test_explicit_stages_exclude_the_account_flags(asked: dict[str, bool]) -> None:
    with pytest.raises(LayoutError, match="write either them or --num-layers-in-first-pipeline-stage"):
        check(DENSE, layout(pp=2, num_layers_in_first_pipeline_stage=5, **asked))


@pytest.mark.parametrize(
    ("checkpoint", "asked", "gpus"),
    [
        (DENSE, {}, 1),
        (DENSE, {"tp": 4}, 4),
        (DENSE, {"tp": 12}, 12),  # more ranks than query groups, a multiple of them
        (replace(DENSE, vocab_size=511, pads_vocab=True), {"tp": 4}, 4),
        (replace(MOE, ffn_hidden_size=7), {"tp": 4}, 4),  # no layer has the dense size
        (DENSE, {"tp": 2, "pp": 3, "cp": 2}, 12),
        (DENSE, {"pp": 3, "num_layers_in_first_pipeline_stage": 5, "num_layers_in_last_pipeline_stage": 3}, 3),
        (DENSE, {"pp": 2, "num_layers_in_last_pipeline_stage": 5}, 2),
        (
            DENSE,
            {"pp": 2, "account_for_embedding_in_pipeline_split": True, "account_for_loss_in_pipeline_split": True},
            2,
        ),
        (DENSE, {"tp": 4, "num_nodes": 2}, 2),
        (DENSE, {"tp": 2, "num_nodes": 3}, 2),
        (DENSE, {"num_gpus": 4}, 4),
        (MOE, {"ep": 4}, 4),
        (MOE, {"tp": 2, "ep": 2}, 2),
        (MOE, {"tp": 2, "ep": 3}, 6),
        (MOE, {"tp": 2, "ep": 2, "etp": 2}, 4),
        (MOE, {"tp": 2, "ep": 4, "pp": 2}, 8),
    ],
)
def test_gpus_are_what_the_layout_needs(checkpoint: Checkpoint, asked: dict[str, Any], gpus: int) -> None:
    resolved, notes = check(checkpoint, layout(**asked))
    assert resolved.num_gpus == gpus
    assert resolved.world_size % resolved.model_parallel_size == 0
    assert [note for note in notes if "context" not in note] == []


@pytest.mark.parametrize(
    ("asked", "ranks"),
    [({}, 1), ({"tp": 4}, 4), ({"tp": 4, "ep": 2}, 1), ({"tp": 4, "ep": 2, "etp": 2}, 2), ({"tp": 2, "etp": 1}, 1)],
)
def test_expert_tensor_parallel_size_is_always_chosen(asked: dict[str, int], ranks: int) -> None:
    assert check(MOE, layout(**asked))[0].expert_tensor_parallel_size == ranks


def test_context_parallelism_is_accepted_with_one_line() -> None:
    resolved, notes = check(DENSE, layout(cp=2))
    assert resolved.num_gpus == 2
    assert len(notes) == 1
    assert "context-parallel ranks repeat the work in serving; use --tensor-parallel-size" in notes[0]


@pytest.mark.parametrize(
    ("asked", "note"),
    [
        ({"sequence_parallel": True}, "--sequence-parallel has no effect with one tensor-parallel rank."),
        ({"etp": 2}, "--expert-tensor-parallel-size has no effect on a model without experts."),
        ({"account_for_loss_in_pipeline_split": True}, "has no effect with one pipeline stage."),
    ],
)
def test_a_flag_without_effect_says_so(asked: dict[str, Any], note: str) -> None:
    resolved, notes = check(DENSE, layout(**asked))
    assert len(notes) == 1
    assert note in notes[0]
    assert not resolved.sequence_parallel


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({}, "TP=1 PP=1 on 1 GPU"),
        ({"tp": 2, "num_gpus": 8, "sequence_parallel": True}, "TP=2 PP=1 with sequence parallel on 8 GPUs, 4 replicas"),
        ({"tp": 4, "pp": 2, "num_nodes": 2}, "TP=4 PP=2 on 4 GPUs × 2 nodes"),
    ],
)
def test_describe(asked: dict[str, Any], line: str) -> None:
    assert check(DENSE, layout(**asked))[0].describe() == line


class TestSequenceLength:
    def test_default(self) -> None:
        assert sequence_length(DENSE, None) == (4096, [])

    def test_default_above_the_models_is_lowered_with_a_note(self) -> None:
        length, notes = sequence_length(replace(DENSE, max_sequence_length=512), None)
        assert length == 512
        assert notes == ["The sequence length is 512 tokens, the model's, instead of 4096."]

    def test_given(self) -> None:
        assert sequence_length(DENSE, 8192) == (8192, [])

    def test_given_above_the_models_is_refused(self) -> None:
        with pytest.raises(LayoutError, match="at most 8192 tokens, not 9000; write --inference-max-seq-length 8192"):
            sequence_length(DENSE, 9000)
