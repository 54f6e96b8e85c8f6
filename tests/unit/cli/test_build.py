import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.files import torch_index
from tests.files.environments import MEGATRON, make_environment
from trition_repo_gen import cli
from trition_repo_gen.repository import build as build_module
from trition_repo_gen.repository.options import BuildOptions

Make = Callable[..., Path]


def trgen(*words: object) -> int:
    """Run the command in this process and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["trgen", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
    return int(exit_.value.code or 0)


class _ParsedError(Exception):
    pass


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Return a function that gives the options which a command line becomes, without those that have the default."""

    def parse(*words: object) -> dict[str, Any]:
        taken: list[BuildOptions] = []

        def take(options: BuildOptions, report: object) -> None:
            taken.append(options)
            raise _ParsedError

        monkeypatch.setattr(build_module, "build_repository", take)
        monkeypatch.setattr(sys, "argv", ["trgen", "build", "--model-name", "m", *map(str, words)])
        with pytest.raises(_ParsedError):
            cli.main()
        defaults = dataclasses.asdict(BuildOptions(model_name="m"))
        return {key: value for key, value in dataclasses.asdict(taken[0]).items() if value != defaults[key]}

    return parse


# Every flag of the contract: its names, a value (None: a switch), and the option that it sets.
FLAGS: list[tuple[list[str], Any, str]] = [
    (["--megatron-checkpoint", "-mc"], Path("a_b"), "megatron_checkpoint"),
    (["--nemo-checkpoint"], Path("a_b"), "nemo_checkpoint"),
    (["-nc"], Path("a_b"), "checkpoint"),
    (["--multimodal"], None, "multimodal"),
    (["--model-name", "--triton-model-name", "-tmn"], "my_model-x", "model_name"),
    (["--model-version", "--triton-model-version", "-tmv"], 2, "model_version"),
    (["--model-repository"], Path("my_models"), "model_repository"),
    (["--num-gpus", "-ng"], 8, "num_gpus"),
    (["--num-nodes", "-nn"], 2, "num_nodes"),
    (["--tensor-parallel-size", "--tensor-parallelism-size", "-tps"], 2, "tensor_parallel_size"),
    (["--pipeline-parallel-size", "--pipeline-parallelism-size", "-pps"], 2, "pipeline_parallel_size"),
    (["--num-layers-in-first-pipeline-stage", "-nlfps"], 3, "num_layers_in_first_pipeline_stage"),
    (["--num-layers-in-last-pipeline-stage", "-nllps"], 3, "num_layers_in_last_pipeline_stage"),
    (["--context-parallel-size", "-cps"], 2, "context_parallel_size"),
    (["--expert-parallel-size", "--expert-model-parallel-size", "-emps"], 2, "expert_parallel_size"),
    (["--expert-tensor-parallel-size"], 2, "expert_tensor_parallel_size"),
    (["--account-for-embedding-in-pipeline-split", "-eps"], None, "account_for_embedding_in_pipeline_split"),
    (["--account-for-loss-in-pipeline-split", "-alps", "-lps"], None, "account_for_loss_in_pipeline_split"),
    (["--max-batch-size", "-mbs"], 4, "max_batch_size"),
    (["--debug-mode", "-dm"], None, "debug_mode"),
    (["--allow-control-tokens-in-chat"], None, "allow_control_tokens_in_chat"),
    (["--fused-layers"], "off", "fused_layers"),
    (["--async-scheduling"], "off", "async_scheduling"),
    (["--enable-flash-decode", "-efd", "-fd"], None, "enable_flash_decode"),
    (["--enable-cuda-graphs", "-cg"], None, "enable_cuda_graphs"),
    (["--legacy-ckpt", "-lc"], None, "legacy_ckpt"),
    (["--inference-max-seq-length", "-imsl"], 2048, "inference_max_seq_length"),
    (["--micro-batch-size", "-mb"], 2, "micro_batch_size"),
    (["--params-dtype", "-pd"], "bfloat16", "params_dtype"),
    (["--inference-batch-times-seqlen-threshold", "-ibts"], 500, "inference_batch_times_seqlen_threshold"),
    (["--processor-name"], "org/name_x", "processor_name"),
    (["--max-images"], 3, "max_images"),
    (["--max-image-mib"], 1.5, "max_image_mib"),
    (["--max-image-pixels"], 1000, "max_image_pixels"),
    (["--sequence-parallel"], None, "sequence_parallel"),
    (["--kv-cache-gib"], 1.5, "kv_cache_gib"),
    (["--max-requests"], 64, "max_requests"),
    (["--kv-cache-fraction"], 0.5, "kv_cache_fraction"),
    (["--gpu-memory-utilization"], 0.8, "gpu_memory_utilization"),
    (["--gpu-memory-gib"], 80.0, "gpu_memory_gib"),
    (["--enable-prefix-caching"], None, "enable_prefix_caching"),
    (["--enable-chunked-prefill"], None, "enable_chunked_prefill"),
    (["--chunked-prefill-size"], 512, "chunked_prefill_size"),
    (["--priority-levels"], 3, "priority_levels"),
    (["--default-priority"], 1, "default_priority"),
    (["--max-queue-size"], 0, "max_queue_size"),
    (["--queue-timeout"], 2.5, "queue_timeout"),
    (["--no-stream"], None, "no_stream"),
    (["--trtllm-alias"], None, "trtllm_alias"),
    (["--tokenizer"], "org/name_x", "tokenizer"),
    (["--rank-python"], "my_env/bin/python", "rank_python"),
    (["--max-restarts"], 0, "max_restarts"),
    (["--start-timeout"], 60, "start_timeout"),
    (["--rendezvous"], "host_a:1234", "rendezvous"),
    (["--dry-run"], None, "dry_run"),
    (["--force"], None, "force"),
]


def spellings(name: str) -> set[str]:
    return {name, "--" + name[2:].replace("-", "_")} if name.startswith("--") else {name}


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        pytest.param(spelling, value, field, id=spelling)
        for names, value, field in FLAGS
        for name in names
        for spelling in sorted(spellings(name))
    ],
)
def test_a_flag_in_every_spelling(options: Callable[..., dict[str, Any]], name: str, value: Any, field: str) -> None:
    if value is None:
        assert options(name) == {field: True}
    else:
        assert options(name, value) == {field: value}
        assert options(f"{name}={value}") == {field: value}


@pytest.mark.parametrize("name", ["--allow-image-urls", "--allow_image_urls"])
def test_a_flag_that_may_be_repeated(options: Callable[..., dict[str, Any]], name: str) -> None:
    assert options(name, "a_b.org", f"{name}=*.c.org") == {"allow_image_urls": ["a_b.org", "*.c.org"]}


def test_every_option_has_a_flag_in_the_tables_above() -> None:
    assert {field for _, _, field in FLAGS} | {"allow_image_urls", "any_checkpoint"} == {
        field.name for field in dataclasses.fields(BuildOptions)
    }


def test_a_build_prints_what_it_did_and_what_comes_next(
    make_checkpoint: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["build", "--megatron_checkpoint", make_checkpoint(), "--triton_model_name", "llama", "-tps", 2]
    python = make_environment(tmp_path / "megatron", MEGATRON)
    words += ["--model-repository", tmp_path / "models", "--rank-python", python]
    assert trgen(*words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"created: {tmp_path}/models/llama (version 1)",
        f"created: {tmp_path}/models/llama_stream, which streams its answers",
        "model: gpt, 4 layers, 16 B of float32 weights, served in float32, sequences of 512 tokens",
        "layout: TP=2 PP=1 on 2 GPUs",
        "note: The sequence length is 512 tokens, the model's, instead of 4096.",
        "per GPU: about 8 B of weights, 1.5 GiB of working memory",
        "KV cache: 512 B a token, 64.1 MiB for 256 requests of 512 tokens",
        f"next: trgen serve --model-repository {tmp_path}/models",
    ]
    assert trgen(*words) == 0
    assert capsys.readouterr().out.startswith("unchanged: ")
    assert trgen(*words, "-mbs", 4) == 0
    assert "changed: config.pbtxt\n" in capsys.readouterr().out


def test_a_build_prints_what_fits(make_checkpoint: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_checkpoint(**torch_index.LLAMA_8B, shapes=torch_index.llama(torch_index.LLAMA_8B), bf16=True)
    words = ["build", "-mc", root, "-tmn", "m", "--model-repository", tmp_path / "models", "--dry-run"]
    assert trgen(*words, "--gpu-memory-gib", 80) == 0
    memory, kv_cache = capsys.readouterr().out.splitlines()[-2:]
    assert re.fullmatch(
        r"per GPU: 15 GiB of weights, [\d.]+ GiB of working memory, [\d.]+ GiB of KV cache, 72 GiB of 80 GiB in all",
        memory,
    )
    assert re.fullmatch(r"KV cache: 128 KiB a token, room for [\d,]+ tokens, \d+ requests of 4096 tokens", kv_cache)
    assert trgen(*words, "--gpu-memory-gib", 14) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "trgen: --gpu-memory-gib says 14 GiB (--gpu-memory-utilization 0.9), too little for 15 GiB of"
    )
    assert error.endswith("; write --tensor-parallel-size 2.\n")


def test_a_dry_run_prints_the_tree_and_the_config(
    make_checkpoint: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = tmp_path / "models"
    assert trgen("build", "-mc", make_checkpoint(), "-tmn", "m", "--model-repository", repository, "--dry-run") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{repository}/m/\n    1/model.py\n    1/runtime/")
    assert 'parameters { key: "CHECKPOINT"' in out
    assert f"would be created: {repository}/m" in out
    assert "next:" not in out
    assert not repository.exists()


def test_a_build_prints_what_becomes_of_the_twin(
    make_checkpoint: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = tmp_path / "models"
    words = [
        "build",
        "-mc",
        make_checkpoint(),
        "-tmn",
        "m",
        "--model-repository",
        repository,
        "--rank-python",
        "/no/it",
    ]
    assert trgen(*words) == 0
    for model in ("m", "m_stream"):
        with (repository / model / "config.pbtxt").open("a") as config:
            config.write("# mine\n")
    capsys.readouterr()
    assert trgen(*words) == 0
    edited = [line for line in capsys.readouterr().out.splitlines() if "edited" in line]
    assert edited == [
        f"note: {model}/config.pbtxt had been edited by hand; the edited one is kept as config.pbtxt.edited."
        for model in ("m", "m_stream")
    ]
    assert trgen(*words, "--no-stream", "--dry-run") == 0
    assert (
        f"\nunchanged: {repository}/m (version 1)\nwould be removed: {repository}/m_stream\n" in capsys.readouterr().out
    )
    assert trgen(*words, "--no-stream") == 0
    assert f"unchanged: {repository}/m (version 1)\nremoved: {repository}/m_stream\n" in capsys.readouterr().out
    assert not (repository / "m_stream").exists()


def test_a_mistake_is_one_line_and_exit_code_2(make_checkpoint: Make, capsys: pytest.CaptureFixture[str]) -> None:
    assert trgen("build", "-mc", make_checkpoint(), "-tmn", "m", "-tps", 3) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "trgen: The model has 4 attention heads, which 3 tensor-parallel ranks cannot share; "
        "write --tensor-parallel-size 2.\n"
    )


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--max-batch-size", 3_000_000_000),
        ("--max-queue-size", 10**23),
        ("--model-version", 10**23),
        ("--start-timeout", 10**23),
        ("--kv-cache-gib", "inf"),
        ("--kv-cache-gib", "nan"),
        ("--kv-cache-gib", "1e308"),
        ("--gpu-memory-gib", "inf"),
        ("--gpu-memory-utilization", "nan"),
        ("--queue-timeout", "inf"),
        ("--max-image-mib", "inf"),
    ],
)
def test_a_number_beyond_all_bounds(
    make_checkpoint: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, value: object
) -> None:
    words = ["build", "-mc", make_checkpoint(), "-tmn", "m", "--model-repository", tmp_path / "models"]
    assert trgen(*words, flag, value) == 2
    assert f"Error: Invalid value for '{flag}'" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_a_version_may_be_a_time(options: Callable[..., dict[str, Any]]) -> None:
    assert options("--model-version", 20260101120000) == {"model_version": 20260101120000}


@pytest.mark.parametrize(
    "words",
    [
        ["build"],
        ["build", "-tmn"],
        ["build", "-tmn", "m", "-tps", "0"],
        ["build", "-tmn", "m", "-pd", "int8"],
        ["bild"],
    ],
)
def test_a_wrong_flag_is_exit_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert trgen(*words) == 2
    assert "Error: " in capsys.readouterr().err


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert trgen("--version") == 0
    assert capsys.readouterr().out.startswith("trgen ")
    assert trgen("build", "-h") == 0
    out = capsys.readouterr().out
    assert all(name in out for names, _, _ in FLAGS for name in names[:1])


def test_a_bug_is_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "build_repository", lambda options, report: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["trgen", "build", "-tmn", "m"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_neither_torch_nor_grpc_is_imported(make_checkpoint: Make, tmp_path: Path) -> None:
    poison = tmp_path / "poison"
    for package in ("torch", "megatron", "transformers", "grpc", "tritonclient/grpc"):
        (poison / package).mkdir(parents=True)
        (poison / package / "__init__.py").write_text(f"raise ImportError({package!r})")
    (poison / "tritonclient" / "__init__.py").write_text("raise ImportError")
    # model_config_pb2 is read from where tritonclient lies, so only its package is poisoned.
    real = Path(next(iter(_locations("tritonclient"))))
    (poison / "tritonclient" / "grpc" / "model_config_pb2.py").symlink_to(real / "grpc" / "model_config_pb2.py")
    words = ["build", "-mc", str(make_checkpoint()), "-tmn", "m", "--model-repository", str(tmp_path / "models")]
    program = "import sys; from trition_repo_gen.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(poison)}
    done = subprocess.run(
        [sys.executable, "-c", program, *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "models" / "m" / "config.pbtxt").is_file()


def test_help_imports_no_heavy_package() -> None:
    program = (
        "import sys; from trition_repo_gen.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'pydantic', 'jinja2', 'yaml', 'tritonclient', 'numpy', 'google.protobuf', 'torch', 'rich'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _locations(package: str) -> list[str]:
    from importlib.util import find_spec

    spec = find_spec(package)
    assert spec is not None
    return list(spec.submodule_search_locations or [])
