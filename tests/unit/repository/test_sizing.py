import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.files import nemo2, torch_index
from tests.files.torch_index import DEEPSEEK_V2_LITE, LLAMA_8B, QWEN3_30B
from trition_repo_gen.errors import LayoutError
from trition_repo_gen.repository.build import build_repository
from trition_repo_gen.repository.options import BuildOptions
from trition_repo_gen.repository.shares import stage_weights
from trition_repo_gen.repository.sizing import Sizing, binary

Size = Callable[..., Sizing]
MODELS = {
    "llama": (LLAMA_8B, torch_index.llama(LLAMA_8B)),
    "tied": (LLAMA_8B, torch_index.llama(LLAMA_8B, tied=True)),
    "qwen3_moe": (QWEN3_30B, torch_index.qwen3_moe(QWEN3_30B)),
    "deepseek": (DEEPSEEK_V2_LITE, torch_index.deepseek_v2(DEEPSEEK_V2_LITE)),
}
EMBEDDING = 128256 * 4096
LAYER = (8_030_261_248 - 2 * EMBEDDING - 4096) // 32


@pytest.fixture
def build(make_checkpoint: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    """Return a function that builds one of the models, with options, without writing anything."""
    names = (f"checkpoint {number}" for number in itertools.count())

    def run(model: str, *, config: dict[str, Any] | None = None, **options: Any) -> Any:
        sizes, shapes = MODELS[model]
        root = make_checkpoint(name=next(names), shapes=shapes, **sizes, **(config or {"bf16": True}))
        return build_repository(
            BuildOptions(
                model_name="m",
                megatron_checkpoint=root,
                model_repository=tmp_path / "models",
                rank_python="/nowhere/python",
                dry_run=True,
                **options,
            )
        )

    return run


@pytest.fixture
def size(build: Callable[..., Any]) -> Size:
    return lambda *arguments, **options: build(*arguments, **options).sizing


@pytest.mark.parametrize(
    ("model", "weights"), [("llama", 8_030_261_248), ("qwen3_moe", 30_532_122_624), ("deepseek", 15_706_484_224)]
)
def test_a_whole_model_has_as_many_weights_as_its_authors_say(size: Size, model: str, weights: int) -> None:
    assert size(model).weights == 2 * weights
    assert size(model).is_exact
    assert size(model, params_dtype="float32").weights == 4 * weights


@pytest.mark.parametrize(
    ("model", "options", "stages"),
    [
        # What each tensor-parallel rank has the whole of: two norms a layer and the last one.
        ("llama", {"tensor_parallel_size": 2}, [(8_030_261_248 + 65 * 4096) // 2]),
        ("llama", {"tensor_parallel_size": 16}, [(8_030_261_248 + 15 * 65 * 4096) // 16]),
        ("llama", {"pipeline_parallel_size": 2}, [16 * LAYER + EMBEDDING, 16 * LAYER + EMBEDDING + 4096]),
        ("llama", {"context_parallel_size": 2}, [8_030_261_248]),
        (
            "llama",
            {"pipeline_parallel_size": 3, "num_layers_in_first_pipeline_stage": 8},
            [8 * LAYER + EMBEDDING, 12 * LAYER, 12 * LAYER + EMBEDDING + 4096],
        ),
        ("tied", {}, [8_030_261_248 - EMBEDDING]),
        ("tied", {"pipeline_parallel_size": 2}, [16 * LAYER + EMBEDDING, 16 * LAYER + EMBEDDING + 4096]),
    ],
)
def test_a_dense_models_shares(build: Callable[..., Any], model: str, options: Any, stages: list[int]) -> None:
    result = build(model, **options)
    assert stage_weights(result.checkpoint, result.layout, 2) == [2 * each for each in stages]
    assert result.sizing.weights == 2 * max(stages)


EXPERTS = 48 * 128 * 3 * 768 * 2048


@pytest.mark.parametrize(
    ("options", "experts", "ranks"),
    [
        ({"expert_parallel_size": 8}, EXPERTS // 8, 1),
        ({"tensor_parallel_size": 4}, EXPERTS // 4, 4),
        ({"tensor_parallel_size": 2, "expert_parallel_size": 4}, EXPERTS // 4, 2),
        (
            {"tensor_parallel_size": 2, "expert_parallel_size": 2, "expert_tensor_parallel_size": 2},
            EXPERTS // 4,
            2,
        ),
    ],
)
def test_experts_are_shared_by_their_own_ranks(size: Size, options: Any, experts: int, ranks: int) -> None:
    replicated = 48 * (2 * 2048 + 2 * 128 + 128 * 2048) + 2048  # norms and routers
    dense = (30_532_122_624 - EXPERTS - replicated) // ranks + replicated
    assert size("qwen3_moe", **options).weights == 2 * (dense + experts)


def test_latent_attention_is_shared_in_part(size: Size) -> None:
    layers = 27 * (2 * 2048 + 576 * 2048 + 512) + 26 * 64 * 2048 + 2048  # norms, latents, routers
    assert size("deepseek", tensor_parallel_size=2).weights == 15_706_484_224 - layers + 2 * layers


@pytest.mark.parametrize(("ranks", "sequences"), [(1, 128256), (2, 128512), (8, 129024)])
def test_the_embedding_is_padded_for_the_ranks(size: Size, ranks: int, sequences: int) -> None:
    padded = {"bf16": True, "should_pad_vocab": True, "make_vocab_size_divisible_by": 256}
    layers = (32 * LAYER - 64 * 4096) // ranks + 65 * 4096
    sizing = size("llama", config=padded, tensor_parallel_size=ranks)
    assert sizing.weights == 2 * (layers + 2 * sequences * 4096 // ranks)


@pytest.mark.parametrize(
    ("model", "options", "token_bytes", "block_size"),
    [
        ("llama", {}, 131_072, 256),
        ("llama", {"params_dtype": "float32"}, 262_144, 256),
        ("llama", {"tensor_parallel_size": 4}, 32_768, 256),
        ("llama", {"tensor_parallel_size": 16}, 16_384, 256),  # more ranks than KV heads: one each
        ("llama", {"pipeline_parallel_size": 3, "num_layers_in_first_pipeline_stage": 8}, 131_072 * 12 // 32, 256),
        ("deepseek", {}, 27 * 576 * 2, 64),
        ("deepseek", {"tensor_parallel_size": 4}, 27 * 576 * 2, 64),  # latents belong to all heads
    ],
)
def test_what_a_token_takes_in_the_kv_cache(
    size: Size, model: str, options: Any, token_bytes: int, block_size: int
) -> None:
    sizing = size(model, **options)
    assert (sizing.token_bytes, sizing.block_size) == (token_bytes, block_size)


def test_a_gpu_is_used_as_far_as_it_was_allowed(size: Size) -> None:
    gpu = 80 * 2**30
    sizing = size("llama", gpu_memory_gib=80.0)
    assert sizing.total == int(0.9 * gpu)
    blocks = (sizing.kv_cache or 0) // (256 * 131_072) - 1  # one is the engine's own
    assert sizing.tokens == blocks * 256
    assert sizing.requests == blocks * 256 // 4096
    less = size("llama", gpu_memory_gib=80.0, gpu_memory_utilization=0.5)
    assert less.total == gpu // 2
    assert (sizing.kv_cache or 0) - (less.kv_cache or 0) == int(0.9 * gpu) - gpu // 2


def test_requests_have_whole_blocks(size: Size) -> None:
    sizing = size("llama", kv_cache_gib=4.0, inference_max_seq_length=257)
    assert sizing.tokens == 127 * 256
    assert sizing.requests == 63
    assert sizing.room_for(63) == 127 * 256 * 131_072


def test_the_flags_for_the_kv_cache_alone(size: Size) -> None:
    given = size("llama", kv_cache_gib=3.0, gpu_memory_gib=80.0)
    assert given.kv_cache == 3 * 2**30
    share = size("llama", kv_cache_fraction=0.5, gpu_memory_gib=80.0)
    assert 0.45 * (share.gpu or 0) < 2 * (share.kv_cache or 0) < (share.gpu or 0) - share.weights


def test_without_a_gpu_nothing_is_refused(size: Size) -> None:
    sizing = size("qwen3_moe", params_dtype="float32", kv_cache_gib=900.0)
    assert sizing.gpu is None
    assert sizing.fits
    assert size("llama").kv_cache is None


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("llama", {"gpu_memory_gib": 24.0}),
        ("llama", {"gpu_memory_gib": 24.0, "kv_cache_gib": 0.54}),
        ("llama", {"gpu_memory_gib": 24.0, "kv_cache_fraction": 0.9}),
        ("qwen3_moe", {"gpu_memory_gib": 80.0}),
    ],
)
def test_what_fits_is_not_refused(size: Size, model: str, options: Any) -> None:
    assert size(model, **options).fits


@pytest.mark.parametrize("gpu", [{}, {"gpu_memory_gib": 80.0}])
@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (1e-10, "1e-10 has room for 0 tokens, too few for one request of 4096; write --kv-cache-gib 0.54."),
        (0.01, "0.01 has room for 0 tokens, too few for one request of 4096; write --kv-cache-gib 0.54."),
        (
            0.5,
            "0.5 has room for 3840 tokens, too few for one request of 4096; "
            "write --kv-cache-gib 0.54 or --inference-max-seq-length 3840.",
        ),
    ],
)
def test_a_kv_cache_too_small_for_one_request(size: Size, given: float, sentence: str, gpu: Any) -> None:
    with pytest.raises(LayoutError, match=f"^--kv-cache-gib {re.escape(sentence)}$"):
        size("llama", kv_cache_gib=given, **gpu)
    assert size("llama", kv_cache_gib=0.54, **gpu).requests == 1
    assert size("llama", kv_cache_gib=0.5, inference_max_seq_length=3840, **gpu).requests == 1


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        (
            "llama",
            {"gpu_memory_gib": 16.0},
            "--gpu-memory-gib says 16 GiB (--gpu-memory-utilization 0.9), too little for 15 GiB of weights, {} GiB of "
            "working memory and 544 MiB of KV cache for one request of 4096 tokens; write --tensor-parallel-size 2.",
        ),
        (
            "llama",
            {"gpu_memory_gib": 24.0, "params_dtype": "float32"},
            "(--gpu-memory-utilization 0.9), too little for 29.9 GiB of weights, {} GiB of working memory and 1.1 "
            "GiB of KV cache for one request of 4096 tokens; "
            "write --tensor-parallel-size 2 or --params-dtype bfloat16.",
        ),
        (
            "llama",
            {"gpu_memory_gib": 40.0, "inference_max_seq_length": 131072},
            "too little for 15 GiB of weights, {} GiB of working memory and 16 GiB of KV cache for one request of "
            "131072 tokens; write --tensor-parallel-size 2 or --inference-max-seq-length {}.",
        ),
        (
            "llama",
            {"gpu_memory_gib": 24.0, "gpu_memory_utilization": 0.6},
            "(--gpu-memory-utilization 0.6), too little for 15 GiB of weights, {} GiB of working memory and 544 MiB of "
            "KV cache for one request of 4096 tokens; write --tensor-parallel-size 2 or --gpu-memory-utilization {}.",
        ),
        (
            "llama",
            {"gpu_memory_gib": 24.0, "kv_cache_gib": 8.0},
            "--gpu-memory-gib says 24 GiB, too little for 15 GiB of weights, {} GiB of working memory and 8 GiB of KV "
            "cache; write --tensor-parallel-size 2 or --kv-cache-gib {}.",
        ),
        (
            "deepseek",
            {"gpu_memory_gib": 4.0},
            "for one request of 4096 tokens; "
            "write --gpu-memory-gib with the memory of larger GPUs, and serve it there.",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(size: Size, model: str, options: Any, sentence: str) -> None:
    with pytest.raises(LayoutError) as error:
        size(model, **options)
    pattern = re.escape(sentence).replace(r"\{\}", r"[\d.]+")
    assert re.search(f"{pattern}$", str(error.value)), str(error.value)
    for flag, value in re.findall(r"(--[a-z-]+) ([\w.]+)(?= or |\.$)", str(error.value)):
        name = flag[2:].replace("-", "_")
        kind = str if value.isalnum() and not value.isdigit() else float if "." in value else int
        assert size(model, **{**options, name: kind(value)}).fits, flag


def test_without_shapes_it_is_about(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "model_name": "m",
        "model_repository": tmp_path,
        "rank_python": "/nowhere/python",
        "dry_run": True,
    }
    bare = build_repository(BuildOptions(**options, megatron_checkpoint=make_checkpoint(), params_dtype="bfloat16"))
    assert not bare.sizing.is_exact
    assert bare.sizing.weights == bare.checkpoint.weights_bytes // 2
    nemo = nemo2.write(tmp_path / "qwen")
    images = build_repository(BuildOptions(**options, nemo_checkpoint=nemo, multimodal=True))
    assert not images.sizing.is_exact
    assert (images.sizing.block_size, images.sizing.spare_blocks) == (64, 0)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**30, "1 GiB"), (3 * 2**40, "3072 GiB")]
)
def test_sizes_for_people(count: int, text: str) -> None:
    assert binary(count) == text
