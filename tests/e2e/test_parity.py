"""Greedy answers through tritonserver's HTTP endpoint against Hugging Face's on the same weights, float32."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.serving import PROMPTS, Serve, assert_same_answers, seeded_answers

LAYOUTS = {
    "llama TP2": ("llama", ["--tensor-parallel-size", "2"]),
    "llama PP2": ("llama", ["--pipeline-parallel-size", "2", "--async-scheduling", "on"]),
    "llama PP2, 1 + 3 layers": (
        "llama",
        ["--pipeline-parallel-size", "2", "--num-layers-in-first-pipeline-stage", "1"],
    ),
    "llama PP2, embedding and loss counted": (
        "llama",
        [
            *("--pipeline-parallel-size", "2"),
            *("--account-for-embedding-in-pipeline-split", "--account-for-loss-in-pipeline-split"),
        ],
    ),
    "llama TP2×PP2": ("llama", ["--tensor-parallel-size", "2", "--pipeline-parallel-size", "2"]),
    "llama TP2+SP": ("llama", ["--tensor-parallel-size", "2", "--sequence-parallel", "--async-scheduling", "on"]),
    "llama CP2": ("llama", ["--context-parallel-size", "2"]),
    "llama DP2": ("llama", ["--num-gpus", "2", "--async-scheduling", "on"]),
    "qwen3moe EP2": ("qwen3moe", ["--expert-parallel-size", "2"]),
    "qwen3moe TP2×EP2": (
        "qwen3moe",
        ["--tensor-parallel-size", "2", "--expert-parallel-size", "2", "--async-scheduling", "on"],
    ),
    "qwen3moe TP2×ETP2": ("qwen3moe", ["--tensor-parallel-size", "2", "--expert-tensor-parallel-size", "2"]),
    "qwen2": ("qwen2", []),
    "qwen3": ("qwen3", []),
    "deepseekv3": ("deepseekv3", []),
    "mistral": ("mistral", []),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout(
    layout: str, serve: Serve, references: dict[str, list[dict[str, Any]]], request: pytest.FixtureRequest
) -> None:
    name, flags = LAYOUTS[layout]
    with serve(name, *flags) as serving, ThreadPoolExecutor(len(PROMPTS)) as pool:
        # One request a prompt, all at once, so that every replica gets some.
        replies = list(pool.map(lambda prompt: serving.ask(prompt, max_length=32, compute_logprob=True), PROMPTS))
        if layout == "llama TP2":
            alone, among_others = seeded_answers(serving)
            one_rank, _ = seeded_answers(request.getfixturevalue("llama"))
            assert alone == among_others == one_rank

    assert_same_answers(replies, references[name])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_lower_precision_keeps_what_the_trained_model_knows(dtype: str, serve: Serve) -> None:
    banana, capital = PROMPTS[:2]
    with serve("llama", "-pd", dtype) as serving:
        reply = serving.ask([banana, capital])

    assert reply.sentences[0] == " Yellow."
    assert reply.sentences[1].strip().startswith("Washington")
    assert reply.finish_reason == ["stop", "stop"]
