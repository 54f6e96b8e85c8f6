"""Fused layers compute what Megatron Core's do."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HALVES = {"llama": [4, 4], "qwen2": [4, 4], "qwen3": [4, 4], "qwen3moe": [4, 0], "deepseekv3": [0, 0]}
"""Attention and MLP halves that can be fused."""


Report = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def one_rank(in_megatron: Callable[..., Any], checkpoints: dict[str, Path]) -> Report:
    folders = iterations(checkpoints)
    found = in_megatron(__file__, "fused_driver.py", *folders.values())
    return {name: found[folder] for name, folder in folders.items()}


@pytest.fixture(scope="module")
def two_ranks(megatron_python: Path, checkout: Path, checkpoints: dict[str, Path]) -> Report:
    folders = {"llama": iterations(checkpoints)["llama"]}
    driver = [checkout / "tests/e2e/fused_driver.py", checkout / "src/trition_repo_gen", *folders.values()]
    completed = subprocess.run(
        [megatron_python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *driver],
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr[-4000:]
    found = json.loads(completed.stdout.splitlines()[-1])
    return {name: found[folder] for name, folder in folders.items()}


def iterations(checkpoints: dict[str, Path]) -> dict[str, str]:
    return {name: str(next(checkpoints[name].glob("iter_*"))) for name in HALVES}


@pytest.mark.parametrize("model", HALVES)
def test_answers_and_log_probabilities_are_the_same(one_rank: Report, model: str) -> None:
    assert_same(one_rank[model], HALVES[model])


def test_tensor_parallel_ranks_add_up_to_the_same(one_rank: Report, two_ranks: Report) -> None:
    assert_same(two_ranks["llama"], HALVES["llama"])
    assert [tokens for tokens, _ in two_ranks["llama"]["fused"]] == [tokens for tokens, _ in one_rank["llama"]["plain"]]


def assert_same(outcome: dict[str, Any], halves: list[int]) -> None:
    assert outcome["halves"] == halves
    for (tokens, log_probs), (expected, expected_log_probs) in zip(outcome["fused"], outcome["plain"], strict=True):
        assert tokens == expected
        assert log_probs == pytest.approx(expected_log_probs, abs=1e-4)
