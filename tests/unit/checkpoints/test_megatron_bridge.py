from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trition_repo_gen.checkpoints import read
from trition_repo_gen.errors import CheckpointError

Make = Callable[..., Path]


def test_what_a_checkpoint_says(make_checkpoint: Make) -> None:
    root = make_checkpoint()
    checkpoint = read(root)
    assert checkpoint.kind == "megatron_bridge"
    assert (checkpoint.root, checkpoint.iteration) == (root, root / "iter_0000000")
    assert checkpoint.family == "gpt"
    assert checkpoint.dtype == "float32"
    assert checkpoint.weights_bytes == 16
    assert (checkpoint.num_layers, checkpoint.hidden_size, checkpoint.ffn_hidden_size) == (4, 64, 128)
    assert (checkpoint.num_attention_heads, checkpoint.num_query_groups, checkpoint.kv_channels) == (4, 2, 16)
    assert (checkpoint.vocab_size, checkpoint.max_sequence_length) == (512, 512)
    assert not checkpoint.is_moe
    assert not checkpoint.multi_latent_attention
    assert checkpoint.tokenizer == str(root / "iter_0000000" / "tokenizer")
    assert checkpoint.tokenizer_type == "HuggingFaceTokenizer"


def test_root_and_iteration_are_the_same_checkpoint(make_checkpoint: Make) -> None:
    root = make_checkpoint()
    assert read(root) == read(root / "iter_0000000")


def test_an_iteration_that_stands_alone(make_checkpoint: Make, tmp_path: Path) -> None:
    iteration = (make_checkpoint() / "iter_0000000").rename(tmp_path / "my-model")
    checkpoint = read(iteration)
    assert checkpoint.root == checkpoint.iteration == iteration


def test_the_tracker_chooses_the_iteration(make_checkpoint: Make) -> None:
    root = make_checkpoint(iteration=200)
    make_checkpoint(name="newer", iteration=300)
    (root.parent / "newer" / "iter_0000300").rename(root / "iter_0000300")
    assert read(root).iteration.name == "iter_0000200"
    (root / "latest_checkpointed_iteration.txt").unlink()
    assert read(root).iteration.name == "iter_0000300"


def test_paths_become_absolute_and_links_stay(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(make_checkpoint())
    monkeypatch.chdir(tmp_path)
    assert read(Path("link")).iteration == tmp_path / "link" / "iter_0000000"


@pytest.mark.parametrize(
    ("model", "dtype"),
    [
        ({}, "float32"),
        ({"params_dtype": {"_call_": False, "_target_": "torch.bfloat16"}}, "bfloat16"),
        ({"params_dtype": {"_call_": False, "_target_": "torch.float16"}}, "float16"),
        ({"bf16": True}, "bfloat16"),
        ({"fp16": True}, "float16"),
        ({"params_dtype": "torch.bfloat16"}, "bfloat16"),
    ],
)
def test_dtype_is_the_stored_one(make_checkpoint: Make, model: dict[str, Any], dtype: str) -> None:
    assert read(make_checkpoint(**model)).dtype == dtype


@pytest.mark.parametrize(
    ("provider", "family"),
    [
        ("megatron.bridge.models.gpt_provider.GPTModelProvider", "gpt"),
        ("megatron.bridge.models.gemma.gemma2_provider.Gemma2ModelProvider", "gemma2"),
        ("megatron.bridge.models.mla_provider.MLAModelProvider", "mla"),
        ("megatron.bridge.models.qwen.Qwen3MoEModelProvider", "qwen3moe"),
    ],
)
def test_family_is_the_providers(make_checkpoint: Make, provider: str, family: str) -> None:
    assert read(make_checkpoint(_target_=provider)).family == family


def test_family_is_hugging_faces_where_the_source_is_near(make_checkpoint: Make, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text('{"model_type": "llama"}')
    assert read(make_checkpoint(hf_model_id=str(source))).family == "llama"


def test_missing_sizes_have_megatrons_meaning(make_checkpoint: Make) -> None:
    checkpoint = read(make_checkpoint(num_query_groups=None, kv_channels=None, ffn_hidden_size=None, vocab_size=None))
    assert checkpoint.num_query_groups == 4
    assert checkpoint.kv_channels == 16
    assert checkpoint.ffn_hidden_size == 256
    assert checkpoint.vocab_size is None


def test_experts(make_checkpoint: Make) -> None:
    checkpoint = read(make_checkpoint(num_moe_experts=4, moe_ffn_hidden_size=96, moe_layer_freq=[0, 1, 1, 1]))
    assert (checkpoint.num_moe_experts, checkpoint.moe_ffn_hidden_size) == (4, 96)
    assert checkpoint.has_dense_layers
    assert not read(make_checkpoint(name="all", num_moe_experts=4)).has_dense_layers


def test_sizes_that_a_builder_nests(make_checkpoint: Make) -> None:
    sizes = {"num_layers": 8, "hidden_size": 32, "num_attention_heads": 2, "num_query_groups": None}
    assert read(make_checkpoint(transformer=sizes)).num_layers == 8


class TestTokenizer:
    def test_saved_path_comes_second(self, make_checkpoint: Make, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        root = make_checkpoint(sections={"tokenizer": {"tokenizer_model": str(tmp_path / "elsewhere")}})
        assert read(root).tokenizer == str(root / "iter_0000000" / "tokenizer")
        (root / "iter_0000000" / "tokenizer" / "tokenizer.json").unlink()
        assert read(root).tokenizer == str(tmp_path / "elsewhere")

    def test_a_hubs_name_is_kept(self, make_checkpoint: Make) -> None:
        root = make_checkpoint(sections={"tokenizer": {"tokenizer_model": "somebody/tiny-llama"}})
        (root / "iter_0000000" / "tokenizer").rename(root / "gone")
        assert read(root).tokenizer == "somebody/tiny-llama"

    @pytest.mark.parametrize(
        ("section", "sentence"),
        [
            ({"tokenizer_model": "/nowhere/tiny"}, "the one it was saved with, /nowhere/tiny, is not there"),
            ({"tokenizer_model": None, "tokenizer_type": "NullTokenizer"}, "names none"),
        ],
    )
    def test_none_is_refused_unless_the_user_names_one(
        self, make_checkpoint: Make, section: dict[str, Any], sentence: str
    ) -> None:
        root = make_checkpoint(sections={"tokenizer": section})
        (root / "iter_0000000" / "tokenizer").rename(root / "gone")
        with pytest.raises(CheckpointError, match=rf"{sentence}; write --tokenizer PATH\."):
            read(root)
        assert read(root, needs_tokenizer=False).num_layers == 4


class TestHalfWritten:
    def test_the_tracker_names_an_iteration_that_is_not_there(self, make_checkpoint: Make) -> None:
        root = make_checkpoint(iteration=100)
        (root / "latest_checkpointed_iteration.txt").write_text("200")
        with pytest.raises(CheckpointError, match=r"names iter_0000200, which is not there; write .*iter_0000100, "):
            read(root)

    @pytest.mark.parametrize("name", ["run_config.yaml", ".metadata"])
    def test_a_file_is_missing_or_empty(self, make_checkpoint: Make, name: str) -> None:
        root = make_checkpoint()
        (root / "iter_0000000" / name).write_bytes(b"")
        with pytest.raises(CheckpointError, match=f"half-written: {name} is empty; copy or save it again"):
            read(root)
        (root / "iter_0000000" / name).unlink()
        with pytest.raises(CheckpointError, match=f"half-written: {name} is missing; copy or save it again"):
            read(root)

    def test_a_shard_is_missing(self, make_checkpoint: Make) -> None:
        root = make_checkpoint()
        (root / "iter_0000000" / "__0_1.distcp").unlink()
        with pytest.raises(CheckpointError, match=r"one shard is missing \(__0_1\.distcp\)"):
            read(root)
        (root / "iter_0000000" / "__0_0.distcp").unlink()
        with pytest.raises(CheckpointError, match=r"2 of 2 shards are missing \(__0_0\.distcp\)"):
            read(root)

    def test_a_shard_is_empty(self, make_checkpoint: Make) -> None:
        root = make_checkpoint()
        (root / "iter_0000000" / "__0_1.distcp").write_bytes(b"")
        with pytest.raises(CheckpointError, match=r"the shard __0_1\.distcp is empty"):
            read(root)

    def test_an_older_iteration_is_offered(self, make_checkpoint: Make) -> None:
        root = make_checkpoint(iteration=100)
        make_checkpoint(name="other", iteration=200)
        broken = (root.parent / "other" / "iter_0000200").rename(root / "iter_0000200")
        (broken / ".metadata").unlink()
        with pytest.raises(CheckpointError, match=r"or write another iteration such as .*/iter_0000100\."):
            read(broken)

    def test_the_index_is_never_unpickled(self, make_checkpoint: Make) -> None:
        root = make_checkpoint()
        bomb = b"cbuiltins\nexit\n(tR."  # calls exit() when loaded
        (root / "iter_0000000" / ".metadata").write_bytes(bomb)
        assert read(root).num_layers == 4


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seq_length": None}, r"says seq_length: None; a checkpoint that can be served has a positive number there"),
        ({"num_layers": 0}, r"says num_layers: 0"),
        (
            {"_target_": "megatron.bridge.models.Qwen25VLModelProvider"},
            r"is a Qwen2\.5-VL model, .*; write --multimodal",
        ),
        ({"_target_": "megatron.bridge.models.Gemma3VLModelProvider"}, r"is a Gemma3-VL model, which is not served"),
        (
            {"_target_": "megatron.bridge.models.t5_provider.T5ModelProvider"},
            r"of models of text only decoders are served",
        ),
        ({"softmax_type": "learnable"}, r"holds a model with attention sinks \(softmax_type learnable\)"),
        ({"attn_logit_softcapping": 50.0}, r"caps its attention's logits \(attn_logit_softcapping 50\.0\)"),
        ({"vision_config": {}}, r"is a GPTModelProvider model, which is not served: it is not known here"),
        ({"sections": {"checkpoint": {"ckpt_format": "fsdp_dtensor"}}}, r"was saved as fsdp_dtensor; save it with"),
        ({"sections": {"peft": {"_target_": "megatron.bridge.peft.lora.LoRA"}}}, r"holds a LoRA adapter without its"),
    ],
)
def test_what_is_not_served_is_refused(make_checkpoint: Make, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        read(make_checkpoint(**change))


def test_a_path_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"There is no checkpoint at .*/nothing; write the path"):
        read(tmp_path / "nothing")
