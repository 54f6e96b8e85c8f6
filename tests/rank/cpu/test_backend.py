"""The CPU backend's façade answers what Megatron asks, and its layers compute what Transformer Engine's do."""

import importlib.util
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from megatron.core import parallel_state
from megatron.core.activations import fast_gelu
from megatron.core.extensions import transformer_engine as te
from megatron.core.extensions.transformer_engine import TEDotProductAttention
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn import functional

from tests.rank.processes import one_rank
from trition_repo_gen.runtime.rank import cpu
from trition_repo_gen.runtime.rank.cpu import backend

HIDDEN, HEADS, GROUPS, SIZE = 32, 4, 2, 8
EPS = 1e-3
TOLERANCE = 2e-5


@pytest.fixture(scope="module", autouse=True)
def _megatron() -> Iterator[None]:
    with one_rank(), torch.no_grad():
        parallel_state.initialize_model_parallel()
        model_parallel_cuda_manual_seed(0)
        yield


def config(**changes: Any) -> TransformerConfig:
    values: dict[str, Any] = {"normalization": "RMSNorm", "layernorm_epsilon": EPS, "use_cpu_initialization": True}
    made = TransformerConfig(
        num_layers=2, hidden_size=HIDDEN, num_attention_heads=HEADS, num_query_groups=GROUPS, **(values | changes)
    )
    cpu.adapt_config(made)
    return made


def distance(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected.double()).abs().max())


# The façade


def test_after_import_needs_install_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_done", set())
    with pytest.raises(RuntimeError, match=r"^The CPU backend's after_import comes after"):
        cpu.after_import()


def test_install_can_be_called_again() -> None:
    cpu.install()


def test_a_device_that_a_context_chooses_is_kept() -> None:
    with torch.device("meta"):  # transformers loads models in this context
        assert torch.arange(4).device.type == "meta"


def test_what_is_to_be_on_a_gpu_is_on_the_cpu() -> None:
    with torch.cuda.stream(torch.cuda.Stream()):
        tensor = torch.zeros(3, device="cuda:0", pin_memory=True).pin_memory().cuda()
    assert tensor.device.type == "cpu"
    assert torch.cuda.current_device().type == "cpu"
    assert torch.tensor([1], device="cuda").device.type == "cpu"


def test_events_take_the_time() -> None:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    end.record()
    assert start.elapsed_time(end) >= 0


def test_the_state_of_random_numbers_is_kept() -> None:
    state = torch.cuda.get_rng_state()
    first = torch.rand(3)
    torch.cuda.set_rng_state(state)
    assert torch.equal(first, torch.rand(3))


def test_who_asks_hears_that_there_is_no_gpu_and_no_transformer_engine() -> None:
    assert not torch.cuda.is_available()
    assert importlib.util.find_spec("transformer_engine") is None


def test_nothing_needs_a_compiler() -> None:
    assert not hasattr(fast_gelu, "_torchdynamo_orig_callable")


@pytest.mark.parametrize(("expert_parallel_size", "dispatcher"), [(1, "allgather"), (2, "alltoall")])
def test_expert_parallelism_chooses_the_dispatcher(expert_parallel_size: int, dispatcher: str) -> None:
    made = config(num_moe_experts=4, expert_model_parallel_size=expert_parallel_size)
    assert made.moe_token_dispatcher_type == dispatcher


# Layers


@pytest.mark.parametrize("kind", ["RMSNorm", "LayerNorm"])
@pytest.mark.parametrize("zero_centered", [False, True])
def test_norms(kind: str, zero_centered: bool) -> None:
    x = torch.randn(5, 2, HIDDEN)
    norm = te.TENorm(config(normalization=kind, layernorm_zero_centered_gamma=zero_centered), HIDDEN, EPS)
    torch.nn.init.normal_(norm.weight)
    factor = norm.weight + 1 if zero_centered else norm.weight
    if kind == "RMSNorm":
        expected = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * factor
    else:
        torch.nn.init.normal_(norm.bias)
        expected = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + EPS).sqrt() * factor
        expected = expected + norm.bias
    assert distance(norm(x), expected) < TOLERANCE
    assert type(norm).__name__ == kind


def linear_layer(name: str, **options: Any) -> Any:
    """Return a layer of Transformer Engine's name, from HIDDEN to 48."""
    own: dict[str, dict[str, Any]] = {
        "TELinear": {"parallel_mode": "duplicated", "skip_weight_param_allocation": False},
        "TEColumnParallelLinear": {"gather_output": False, "is_expert": False},
        "TELayerNormColumnParallelLinear": {"gather_output": False, "is_expert": False},
        "TERowParallelLinear": {"input_is_parallel": True, "is_expert": False},
    }
    common = {"config": config(), "init_method": torch.nn.init.normal_}
    return getattr(te, name)(HIDDEN, 48, **common, **own[name], **options)


LINEAR_LAYERS = {
    "TELinear": ["bias", "weight"],
    "TEColumnParallelLinear": ["bias", "weight"],
    "TELayerNormColumnParallelLinear": ["bias", "layer_norm_weight", "weight"],
    "TERowParallelLinear": ["bias", "weight"],
}
"""Layer → the names of its parameters in Transformer Engine."""


@pytest.mark.parametrize("name", LINEAR_LAYERS)
@pytest.mark.parametrize("skip_bias", [False, True])
def test_linear_layers(name: str, skip_bias: bool) -> None:
    x = torch.randn(5, 2, HIDDEN)
    layer = linear_layer(name, bias=True, skip_bias_add=skip_bias)
    torch.nn.init.normal_(layer.bias)
    normed = x
    if "Norm" in name:
        torch.nn.init.normal_(layer.layer_norm_weight)
        normed = functional.rms_norm(x, (HIDDEN,), layer.layer_norm_weight, EPS)

    got, bias = layer(x)

    assert (bias is layer.bias) == skip_bias
    expected = functional.linear(normed, layer.weight, None if skip_bias else layer.bias)
    assert distance(got, expected) < TOLERANCE
    assert sorted(parameter for parameter, _ in layer.named_parameters()) == LINEAR_LAYERS[name]


def test_a_layer_with_a_norm_can_be_split() -> None:
    x = torch.randn(5, 2, HIDDEN)
    fused = linear_layer("TELayerNormColumnParallelLinear", bias=False, skip_bias_add=False)
    norm, linear = te.split_te_layernorm_column_parallel_linear(fused, config(), None, fused.tp_group)
    assert distance(linear(norm(x))[0], fused(x)[0]) < TOLERANCE


def test_layers_are_saved_under_the_names_that_a_gpu_has() -> None:
    assert te.TELinear.__module__ == "megatron.core.extensions.transformer_engine"


class Attention:
    """Queries, keys and values of two sequences of six tokens, and what attention over them should be."""

    tokens = 6

    def __init__(self) -> None:
        self.q = torch.randn(self.tokens, 2, HEADS, SIZE)
        self.k, self.v = (torch.randn(self.tokens, 2, GROUPS, SIZE) for _ in range(2))
        self.position = torch.arange(self.tokens)
        self.causal = self.position[None] <= self.position[:, None]

    def layer(self, kind: AttnMaskType, **changes: Any) -> Callable[..., Tensor]:
        layer: Callable[..., Tensor] = TEDotProductAttention(config(**changes), 1, kind, "self")
        return layer

    def expected(self, seen: Tensor, sink: Tensor | None = None) -> Tensor:
        """Attend to what is seen, by definition; `sink` is a further score of each head, without a value."""
        keys, values = (t.repeat_interleave(HEADS // GROUPS, 2) for t in (self.k, self.v))
        scores = torch.einsum("qbhd,kbhd->bhqk", self.q, keys) * SIZE**-0.5
        scores = scores.masked_fill(~seen, float("-inf"))
        if sink is not None:
            scores = torch.cat([scores, sink[None, :, None, None].expand(2, -1, self.tokens, 1)], -1)
        return torch.einsum("bhqk,kbhd->qbhd", scores.softmax(-1)[..., : self.tokens], values).flatten(2)


@pytest.fixture
def case() -> Attention:
    return Attention()


def test_causal_attention(case: Attention) -> None:
    got = case.layer(AttnMaskType.causal)(case.q, case.k, case.v, None)
    assert distance(got, case.expected(case.causal)) < TOLERANCE


def test_attention_to_all(case: Attention) -> None:
    got = case.layer(AttnMaskType.no_mask)(case.q, case.k, case.v, None)
    assert distance(got, case.expected(torch.ones_like(case.causal))) < TOLERANCE


def test_a_call_overrides_the_layers_mask(case: Attention) -> None:
    got = case.layer(AttnMaskType.no_mask)(case.q, case.k, case.v, None, attn_mask_type=AttnMaskType.causal)
    assert distance(got, case.expected(case.causal)) < TOLERANCE


def test_padding_is_masked(case: Attention) -> None:
    hidden = torch.zeros(2, 1, 1, case.tokens, dtype=torch.bool)
    hidden[1, ..., 4:] = True
    got = case.layer(AttnMaskType.padding)(case.q, case.k, case.v, hidden)
    assert distance(got, case.expected(~hidden)) < TOLERANCE


def test_any_mask(case: Attention) -> None:
    got = case.layer(AttnMaskType.arbitrary)(case.q, case.k, case.v, ~case.causal[None, None])
    assert distance(got, case.expected(case.causal)) < TOLERANCE


def test_a_window(case: Attention) -> None:
    window = case.causal & (case.position[None] >= case.position[:, None] - 2)
    got = case.layer(AttnMaskType.causal, window_size=(2, 0))(case.q, case.k, case.v, None)
    assert distance(got, case.expected(window)) < TOLERANCE


def test_softmax_off_by_one(case: Attention) -> None:
    got = case.layer(AttnMaskType.causal, softmax_type="off-by-one")(case.q, case.k, case.v, None)
    assert distance(got, case.expected(case.causal, torch.zeros(HEADS))) < TOLERANCE


def test_a_learnt_sink(case: Attention) -> None:
    layer: Any = case.layer(AttnMaskType.causal, softmax_type="learnable")
    torch.nn.init.normal_(layer.softmax_offset)
    got = layer(case.q, case.k, case.v, None)
    assert distance(got, case.expected(case.causal, layer.softmax_offset)) < TOLERANCE


def test_packed_sequences(case: Attention) -> None:
    starts = torch.tensor([0, 4, 6])
    packed = SimpleNamespace(qkv_format="thd", cu_seqlens_q=starts, cu_seqlens_kv=starts)
    own = case.causal & ((case.position[None] < 4) == (case.position[:, None] < 4))
    tensors = (tensor[:, 0] for tensor in (case.q, case.k, case.v))
    got = case.layer(AttnMaskType.causal)(*tensors, None, packed_seq_params=packed)
    assert distance(got, case.expected(own)[:, 0]) < TOLERANCE


def test_attention_of_a_context_parallel_rank_is_built_but_not_called(case: Attention) -> None:
    layer = case.layer(AttnMaskType.causal, context_parallel_size=2)
    with pytest.raises(NotImplementedError, match="context_parallel_size 1"):
        layer(case.q, case.k, case.v, None)
