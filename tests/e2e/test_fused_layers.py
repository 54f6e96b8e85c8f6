"""Fused layers compute what Megatron Core's do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HALVES = {"llama": [4, 4], "qwen2": [4, 4], "qwen3": [4, 4], "qwen3moe": [4, 0], "deepseekv3": [0, 0]}
"""Attention and MLP halves that can be fused."""


@pytest.fixture(scope="module")
def report(in_megatron: Callable[..., Any], checkpoints: dict[str, Path]) -> Any:
    folders = {name: str(next(checkpoints[name].glob("iter_*"))) for name in HALVES}
    found = in_megatron(__file__, "fused_driver.py", *folders.values())
    return {name: found[folder] for name, folder in folders.items()}


@pytest.mark.parametrize("model", HALVES)
def test_answers_and_log_probabilities_are_the_same(report: Any, model: str) -> None:
    assert report[model]["halves"] == HALVES[model]
    for (tokens, log_probs), (expected, expected_log_probs) in zip(
        report[model]["fused"], report[model]["plain"], strict=True
    ):
        assert tokens == expected
        assert log_probs == pytest.approx(expected_log_probs, abs=1e-4)
