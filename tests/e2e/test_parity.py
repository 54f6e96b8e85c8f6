"""Greedy answers through tritonserver's HTTP endpoint against Hugging Face's on the same weights, float32."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.serving import PROMPTS, Reply, Serve

LAYOUTS = {
    "llama TP2": ("llama", ["--tensor-parallel-size", "2"]),
    "llama PP2": ("llama", ["--pipeline-parallel-size", "2"]),
    "llama TP2×PP2": ("llama", ["--tensor-parallel-size", "2", "--pipeline-parallel-size", "2"]),
    "llama TP2+SP": ("llama", ["--tensor-parallel-size", "2", "--sequence-parallel"]),
    "llama CP2": ("llama", ["--context-parallel-size", "2"]),
    "llama DP2": ("llama", ["--num-gpus", "2"]),
    "qwen3moe EP2": ("qwen3moe", ["--expert-parallel-size", "2"]),
    "qwen3moe TP2×EP2": ("qwen3moe", ["--tensor-parallel-size", "2", "--expert-parallel-size", "2"]),
    "qwen3moe TP2×ETP2": ("qwen3moe", ["--tensor-parallel-size", "2", "--expert-tensor-parallel-size", "2"]),
    "qwen2": ("qwen2", []),
    "qwen3": ("qwen3", []),
    "deepseekv3": ("deepseekv3", []),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout(layout: str, serve: Serve, references: dict[str, list[dict[str, Any]]]) -> None:
    name, flags = LAYOUTS[layout]
    with serve(name, *flags) as serving, ThreadPoolExecutor(len(PROMPTS)) as pool:
        # One request a prompt, all at once, so that every replica gets some.
        replies = list(pool.map(lambda prompt: serving.ask(prompt, max_length=32, compute_logprob=True), PROMPTS))

    assert_same_answers(replies, references[name])


def test_one_rank(llama: Any, references: dict[str, list[dict[str, Any]]]) -> None:
    replies = [llama.ask(prompt, max_length=32, compute_logprob=True) for prompt in PROMPTS]

    assert_same_answers(replies, references["llama"])


def assert_same_answers(replies: list[Reply], expected: list[dict[str, Any]]) -> None:
    """Compare texts, token counts and the log-probability of every chosen token.

    Text alone would not do: bytes that are no character look alike.
    """
    got = [(reply.sentences[0], reply.completion_tokens[0], reply.finish_reason[0]) for reply in replies]
    assert got == [(e["text"], len(e["generated_ids"]), e["finish_reason"]) for e in expected]
    for reply, reference in zip(replies, expected, strict=True):
        assert reply.log_probs[0] == pytest.approx(reference["generated_log_probs"], abs=1e-3)
