"""Checkpoints of a tiny random model, as Megatron-Bridge writes them, loaded in many ways."""

import dataclasses
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.rank.processes import one_rank
from trition_repo_gen import checkpoints
from trition_repo_gen.checkpoints import Layout
from trition_repo_gen.repository.shares import stage_weights
from trition_repo_gen.runtime.common.errors import LoadError
from trition_repo_gen.runtime.common.settings import Settings
from trition_repo_gen.runtime.rank import cpu
from trition_repo_gen.runtime.rank.engines.core import attention_kernels
from trition_repo_gen.runtime.rank.engines.core.loaded import LoadedModel, kv_block_size
from trition_repo_gen.runtime.rank.loaders import bridge_text, layout, weights

pytestmark = pytest.mark.usefixtures("bridge")


def save(folder: Path, tokenizer: Path) -> Path:
    """Write a checkpoint of two layers as Bridge does; return its `iter_*` folder."""
    from megatron.bridge.models.gpt_provider import GPTModelProvider
    from megatron.bridge.training.model_load_save import save_megatron_model, temporary_distributed_context
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

    provider = GPTModelProvider(
        num_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=48,
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        position_embedding_type="rope",
        seq_length=128,
        vocab_size=300,
        should_pad_vocab=True,
        share_embeddings_and_output_weights=False,
        tp_comm_overlap=True,
        recompute_granularity="full",
        recompute_method="uniform",
        recompute_num_layers=1,
    )
    cpu.adapt_config(provider, torch.float32)
    with temporary_distributed_context("gloo"):
        model_parallel_cuda_manual_seed(0)
        provider.finalize()
        model = provider.provide_distributed_model(wrap_with_ddp=False, use_cpu_initialization=True)
        save_megatron_model(model, folder, hf_tokenizer_path=tokenizer)
    return folder / "iter_0000000"


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A loaded checkpoint and the lines of progress."""

    model: LoadedModel
    lines: list[str]


def load(checkpoint: Path, **settings: Any) -> Loaded:
    """Load as a rank does."""
    lines: list[str] = []
    values = {"checkpoint": str(checkpoint), "params_dtype": "float32"} | settings
    with one_rank():
        return Loaded(bridge_text.load(Settings(**values), on_cpu=True, progress=lines.append), lines)


@pytest.fixture(scope="module")
def checkpoint(bridge: None, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `iter_*` folder of a checkpoint that was saved without Transformer Engine."""
    return save(tmp_path_factory.mktemp("plain"), tiny_llama)


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> Loaded:
    """That checkpoint, loaded in float32."""
    return load(checkpoint)


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """The `iter_*` folder of a copy of that checkpoint, which may be changed."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy" / checkpoint.name))


def change(checkpoint: Path, old: str, new: str) -> None:
    """Change the text of a checkpoint's run_config.yaml."""
    file = checkpoint / "run_config.yaml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().float() for name, parameter in model.named_parameters()}


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module, tolerance: float = 0.0) -> None:
    """Compare two models."""
    a, b = weights_of(one), weights_of(other)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.allclose(a[name], b[name], atol=tolerance, rtol=tolerance), name


# What comes of a checkpoint


def test_a_checkpoint_comes_with_weights_tokenizer_and_vocabulary(loaded: Loaded) -> None:
    model = loaded.model
    assert float(weights_of(model.model)["embedding.word_embeddings.weight"].std()) > 0.01
    assert not model.model.training
    assert model.tokenizer.decode(model.tokenizer("Yellow.")["input_ids"], skip_special_tokens=True) == "Yellow."
    assert model.vocab_size == 300
    assert model.eos_ids


def test_a_build_knows_what_its_weights_take(checkpoint: Path, loaded: Loaded) -> None:
    read = checkpoints.read(checkpoint)
    checked, _ = checkpoints.check(read, Layout())
    size = sum(parameter.nbytes for parameter in loaded.model.model.parameters())
    assert stage_weights(read, checked, 4) == [size]


def test_what_only_training_needs_is_off(loaded: Loaded) -> None:
    config = loaded.model.model.config
    assert config.tp_comm_overlap is False
    assert config.recompute_granularity is None
    assert config.perform_initialization is False


def test_progress_says_what_is_loaded_and_how_far(loaded: Loaded) -> None:
    first, building, size, *steps, last = loaded.lines
    assert first.startswith("reading /")
    assert building == "building GPTModelProvider as float32, one rank"
    assert size.startswith("loading 0.") and size.endswith("MB of weights")
    assert steps[-2].startswith("loading weights: 100 % of 0.")
    assert re.fullmatch(r"read 0\.\d MB in \d+\.\d s, \d+\.\d\d GB/s", steps[-1])
    assert len(steps) <= 10
    assert last.startswith("loaded in ")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_are_converted(dtype: str, checkpoint: Path, loaded: Loaded) -> None:
    model = load(checkpoint, params_dtype=dtype).model.model
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    assert_same_weights(model.module, loaded.model.model, 2e-2)


def test_a_tokenizers_path_that_is_gone_does_not_matter(copy: Path, loaded: Loaded, tiny_llama: Path) -> None:
    change(copy, str(tiny_llama), "/gone/tokenizer")
    assert_same_weights(load(copy).model.model, loaded.model.model)


def test_the_setting_names_another_tokenizer(copy: Path, tiny_llama: Path) -> None:
    change(copy, str(tiny_llama), "/gone/tokenizer")
    shutil.rmtree(copy / "tokenizer")
    assert len(load(copy, tokenizer=str(tiny_llama)).model.tokenizer) > 256


# Transformer Engine's entries beside the weights


@contextmanager
def extra_state() -> Iterator[None]:
    """Let norms have Transformer Engine's entry beside their weight, an empty tensor, inside the context."""
    from trition_repo_gen.runtime.rank.cpu.transformer_engine import _Norm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Norm, "get_extra_state", lambda self: torch.empty(0, dtype=torch.uint8))
        patch.setattr(_Norm, "set_extra_state", lambda self, state: None)
        yield


@pytest.fixture(scope="module")
def with_extra_state(bridge: None, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `iter_*` folder of a checkpoint that was saved with Transformer Engine."""
    with extra_state():
        folder = save(tmp_path_factory.mktemp("extra_state"), tiny_llama)
    assert any("final_layernorm._extra_state" in key for key in weights.stored_keys(folder))
    return folder


def test_bridge_alone_refuses_a_checkpoint_without_extra_state(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where this fails, loaders/weights.py need not filter any more."""
    monkeypatch.setattr(weights, "checked", lambda *_: nullcontext())
    with extra_state(), pytest.raises(Exception, match="_extra_state"):
        load(checkpoint)


@pytest.mark.parametrize("legacy", [False, True])
def test_extra_state_may_be_missing(legacy: bool, checkpoint: Path, loaded: Loaded) -> None:
    with extra_state():
        assert_same_weights(load(checkpoint, legacy_checkpoint=legacy).model.model, loaded.model.model)


def test_extra_state_may_be_there(with_extra_state: Path, loaded: Loaded) -> None:
    with extra_state():
        assert_same_weights(load(with_extra_state).model.model, loaded.model.model)


def test_extra_state_may_be_there_and_not_wanted(with_extra_state: Path, loaded: Loaded) -> None:
    assert_same_weights(load(with_extra_state).model.model, loaded.model.model)


# What is refused


def test_a_missing_weight_is_named(copy: Path) -> None:
    change(copy, "qk_layernorm: false", "qk_layernorm: true")
    name = "'decoder.layers.self_attention.k_layernorm.weight'"
    with pytest.raises(LoadError, match=f"lacks the weight {re.escape(name)} and 1 more; it is"):
        load(copy)


def test_half_a_checkpoint(copy: Path) -> None:
    next(copy.glob("*.distcp")).unlink()
    with pytest.raises(LoadError, match="Rank 0 cannot read /"):
        load(copy)


def test_no_tokenizer(copy: Path, tiny_llama: Path) -> None:
    change(copy, str(tiny_llama), "/gone/tokenizer")
    shutil.rmtree(copy / "tokenizer")
    sentence = "the one it was saved with, /gone/tokenizer, is gone; set the parameter TOKENIZER"
    with pytest.raises(LoadError, match=sentence):
        load(copy)


def test_a_broken_tokenizer(copy: Path) -> None:
    (copy / "tokenizer" / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(LoadError, match="set the parameter TOKENIZER to"):
        load(copy)


def test_too_few_ranks(checkpoint: Path) -> None:
    with pytest.raises(LoadError, match=r"1 ranks were started, but one replica needs 2; start a multiple of 2\."):
        load(checkpoint, tensor_parallel_size=2)


def test_fused_layers_without_a_gpu(checkpoint: Path) -> None:
    with pytest.raises(LoadError, match=r"FUSED_LAYERS is on, but this rank has no GPU; set it to auto\."):
        load(checkpoint, fused_layers="on")


def test_latent_attention_with_sequence_parallelism() -> None:
    config = SimpleNamespace(sequence_parallel=True, multi_latent_attention=True)
    with pytest.raises(LoadError, match="SEQUENCE_PARALLEL is true; for multi-latent attention"):
        layout.check(config, Settings(checkpoint=""))


def test_cuda_graphs_of_pipeline_stages() -> None:
    config = SimpleNamespace(sequence_parallel=False, cuda_graph_impl="local", num_moe_experts=None)
    with pytest.raises(LoadError, match=r"ENABLE_CUDA_GRAPHS is true; more than one pipeline stage needs it false\."):
        layout.check(config, Settings(checkpoint="", pipeline_parallel_size=2))


# Attention that the engine computes


def test_a_models_own_scale_reaches_the_engine(checkpoint: Path) -> None:
    model = load(checkpoint).model.model
    attention = model.decoder.layers[0].self_attention
    assert getattr(attention, "softmax_scale", None) is None
    attention.config.softmax_scale = 0.5
    attention_kernels.require_paged(model)
    assert attention.softmax_scale == 0.5


def test_a_familys_own_attention_is_refused(checkpoint: Path) -> None:
    model = load(checkpoint).model.model
    attention = model.decoder.layers[0].self_attention
    attention.core_attention = type("Capped", (type(attention.core_attention),), {})(
        *(attention.config, 1, None, "self"), softmax_scale=1.0
    )
    sentence = "compute attention by Capped, which the engine's paged attention does not do"
    with pytest.raises(LoadError, match=sentence):
        attention_kernels.require_paged(model)


def test_latents_have_blocks_of_64_and_on_a_cpu_all_have(loaded: Loaded) -> None:
    latents = SimpleNamespace(multi_latent_attention=True)
    assert [kv_block_size(config) for config in (loaded.model.model.config, latents)] == [64, 64]
