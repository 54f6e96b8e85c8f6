import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.files.nemo2 import CONFIG, MODEL, VISION, Call, Name, config, context, language, vision, write
from trition_repo_gen.checkpoints import KINDS, Checkpoint, read
from trition_repo_gen.errors import CheckpointError

QWEN2_VISION = VISION.replace("Qwen25VL", "Qwen2VL")
PRESETS = "nemo.collections.vlm.qwen2vl.model.qwen2vl."


def read_nemo2(path: Path, *, needs_tokenizer: bool = True) -> Checkpoint:
    return read(path, kind=KINDS["nemo2"], multimodal=True, needs_tokenizer=needs_tokenizer)


def model(**changes: Any) -> Call:
    return context(Call(MODEL, **{"config": config(), "model_version": "qwen25-vl", **changes}))


def test_what_it_says(tmp_path: Path) -> None:
    root = write(tmp_path / "qwen")
    checkpoint = read_nemo2(root)
    assert checkpoint == Checkpoint(
        kind="nemo2",
        root=root,
        iteration=root,
        family="Qwen2.5-VL",
        dtype="bfloat16",
        weights_bytes=16,
        num_layers=4,
        hidden_size=512,
        ffn_hidden_size=1024,
        num_attention_heads=4,
        num_query_groups=2,
        kv_channels=128,
        multi_latent_attention=False,
        vocab_size=512,
        pads_vocab=True,
        max_sequence_length=128_000,
        multimodal=True,
        num_vision_attention_heads=2,
        vision_ffn_hidden_size=3420,
        tokenizer="",
        tokenizer_type="",
    )


@pytest.mark.parametrize("part", ["context", "weights"])
def test_a_part_of_it_means_the_whole(tmp_path: Path, part: str) -> None:
    root = write(tmp_path / "qwen")
    assert read_nemo2(root / part).root == root


@pytest.mark.parametrize(
    ("graph", "family"),
    [
        (model(), "Qwen2.5-VL"),
        (model(config=config(vision_transformer_config=vision(QWEN2_VISION))), "Qwen2-VL"),
        (model(config=Call(PRESETS + "Qwen2VLConfig2B"), model_version="qwen2-vl"), "Qwen2-VL"),
        (model(config=Call(PRESETS + "Qwen25VLConfig3B")), "Qwen2.5-VL"),
    ],
)
def test_the_family(tmp_path: Path, graph: Call, family: str) -> None:
    assert read_nemo2(write(tmp_path / "qwen", graph)).family == family


def test_a_configuration_that_leaves_its_sizes_to_its_class(tmp_path: Path) -> None:
    checkpoint = read_nemo2(write(tmp_path / "qwen", model(config=Call(PRESETS + "Qwen25VLConfig7B"))))
    sizes = (checkpoint.num_layers, checkpoint.hidden_size, checkpoint.num_attention_heads, checkpoint.num_query_groups)
    assert sizes == (28, 3584, 28, 4)
    assert (checkpoint.num_vision_attention_heads, checkpoint.vision_ffn_hidden_size) == (16, 3420)


def test_a_class_of_which_some_sizes_are_changed(tmp_path: Path) -> None:
    part = Call("nemo.collections.llm.gpt.model.qwen2.Qwen25Config3B", num_layers=2)
    checkpoint = read_nemo2(write(tmp_path / "qwen", model(config=config(language_transformer_config=part))))
    assert (checkpoint.num_layers, checkpoint.hidden_size) == (2, 2048)


@pytest.mark.parametrize(
    ("arguments", "dtype"),
    [
        ({"bf16": True}, "bfloat16"),
        ({"bf16": False, "fp16": True}, "float16"),
        ({"bf16": False, "params_dtype": Name("torch.bfloat16")}, "bfloat16"),
        ({"bf16": False, "params_dtype": Name("torch.float32")}, "float32"),
    ],
)
def test_the_number_format(tmp_path: Path, arguments: dict[str, Any], dtype: str) -> None:
    part = language(**{"bf16": False, "params_dtype": Name("torch.float32"), **arguments})
    graph = model(config=Call(CONFIG, language_transformer_config=part, vision_transformer_config=vision()))
    assert read_nemo2(write(tmp_path / "qwen", graph)).dtype == dtype


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("llava_next.model.llava_next.LlavaNextModel", "is a LLaVA-NeXT model, which is not served: its vision tower"),
        ("gemma3vl.model.base.Gemma3VLModel", "is a Gemma3-VL model, which is not served"),
        ("llama4.model.base.Llama4OmniModel", "is a Llama 4 model, which is not served: experts"),
        ("mllama.model.base.MLlamaModel", r"is a Llama 3\.2 Vision model, which is not served"),
        ("new.model.NewVLModel", "is a NewVLModel model, which is not served: it is not known here; .* Qwen2-VL and"),
    ],
)
def test_a_family_that_is_not_served(tmp_path: Path, name: str, sentence: str) -> None:
    graph = context(Call(f"nemo.collections.vlm.{name}", config=config()))
    with pytest.raises(CheckpointError, match=sentence):
        read_nemo2(write(tmp_path / "other", graph))


def test_a_language_model(tmp_path: Path) -> None:
    graph = context(Call("nemo.collections.llm.gpt.model.llama.LlamaModel", config=language()))
    with pytest.raises(
        CheckpointError, match=r"of LlamaModel, which is no model with images; export .*llm\.export_ckpt"
    ):
        read_nemo2(write(tmp_path / "llama", graph))


def test_an_adapter(tmp_path: Path) -> None:
    graph = model(model_transform=Call("nemo.collections.llm.peft.lora.LoRA", dim=8))
    with pytest.raises(CheckpointError, match=r"holds a LoRA adapter without its base model; merge both with NeMo's"):
        read_nemo2(write(tmp_path / "lora", graph))


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"num_layers": 0}, "says num_layers: 0 of the language model"),
        ({"hidden_size": "large"}, "says hidden_size: large"),
        ({"num_attention_heads": 8}, "attention heads of size 64, which nemo-toolkit's class cannot run"),
    ],
)
def test_sizes_that_cannot_be(tmp_path: Path, sizes: dict[str, Any], sentence: str) -> None:
    graph = model(config=config(language_transformer_config=language(**sizes)))
    with pytest.raises(CheckpointError, match=sentence):
        read_nemo2(write(tmp_path / "qwen", graph))


def test_one_that_could_run_code(tmp_path: Path) -> None:
    graph = model(config=config(language_transformer_config=language(activation_func=Name("os.system"))))
    with pytest.raises(CheckpointError, match=r"names os\.system, which is no part of a model"):
        read_nemo2(write(tmp_path / "hostile", graph))


class TestProcessor:
    def test_it_is_needed(self, tmp_path: Path) -> None:
        root = write(tmp_path / "qwen", processor=False)
        with pytest.raises(
            CheckpointError, match=r"qwen holds no processor: neither a folder of its context .*--processor-name"
        ):
            read_nemo2(root)
        assert read_nemo2(root, needs_tokenizer=False).family == "Qwen2.5-VL"

    def test_it_may_lie_beside_the_context(self, tmp_path: Path) -> None:
        root = write(tmp_path / "qwen")
        (root / "context" / "processor").rename(root / "processor")
        assert read_nemo2(root).processor == ""

    def test_a_tokenizer_is_none(self, tmp_path: Path) -> None:
        root = write(tmp_path / "qwen")
        (root / "context" / "processor" / "preprocessor_config.json").rename(
            root / "context" / "processor" / "tokenizer_config.json"
        )
        with pytest.raises(CheckpointError, match="holds no processor"):
            read_nemo2(root)


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("context/io.json", "half-written: io.json is missing"),
        ("weights", "half-written: it has no folder weights"),
        ("weights/.metadata", r"half-written: \.metadata is missing"),
        ("weights/__0_1.distcp", r"half-written: one shard is missing \(__0_1\.distcp\)"),
        ("context", "is no NeMo 2.0 checkpoint: it has no context/io.json"),
    ],
)
def test_a_part_that_is_missing(tmp_path: Path, part: str, sentence: str) -> None:
    root = write(tmp_path / "qwen")
    path = root / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(CheckpointError, match=sentence):
        read_nemo2(root)


def test_weights_of_an_older_kind(tmp_path: Path) -> None:
    root = write(tmp_path / "qwen")
    (root / "weights" / "metadata.json").write_text('{"sharded_backend": "zarr"}')
    with pytest.raises(CheckpointError, match="was saved as zarr; save it with NeMo as torch_dist"):
        read_nemo2(root)


def test_a_damaged_graph(tmp_path: Path) -> None:
    root = write(tmp_path / "qwen")
    (root / "context" / "io.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"io\.json is damaged: it is no JSON; copy or save the checkpoint again"):
        read_nemo2(root)


def test_another_kind(tmp_path: Path, make_checkpoint: Any) -> None:
    with pytest.raises(CheckpointError, match="is a Megatron-Bridge checkpoint; write --megatron-checkpoint"):
        read_nemo2(make_checkpoint())
    with pytest.raises(CheckpointError, match="There is no checkpoint at"):
        read_nemo2(tmp_path / "nowhere")
    (tmp_path / "old.nemo").write_bytes(b"tar")
    with pytest.raises(CheckpointError, match=r"is a NeMo 1\.0 archive"):
        read_nemo2(tmp_path / "old.nemo")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="with context and weights in it"):
        read_nemo2(tmp_path / "empty")
