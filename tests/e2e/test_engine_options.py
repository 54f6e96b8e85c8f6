"""Prefix caching, chunked prefill and a KV cache that cannot hold all sequences change nothing in what is answered."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ENGINES = (
    "prefix caching",
    "chunked prefill",
    "small cache",
    "small cache, both",
    "asynchronous, small cache, both",
)


@pytest.fixture(scope="module")
def report(in_megatron: Callable[..., Any], checkpoints: dict[str, Path]) -> Any:
    return in_megatron(__file__, "engine_driver.py", str(next(checkpoints["llama"].glob("iter_*"))))


@pytest.mark.parametrize("engine", ENGINES)
def test_answers_are_the_same(report: Any, engine: str) -> None:
    expected = report["plain"]["answers"]
    answers = report[engine]["answers"]
    assert {sequence: answer["tokens"] for sequence, answer in answers.items()} == {
        sequence: answer["tokens"] for sequence, answer in expected.items()
    }
    for sequence, answer in report[engine]["again"].items():
        assert answer["tokens"] == expected[sequence]["tokens"]


@pytest.mark.parametrize("engine", ENGINES)
def test_log_probabilities_are_the_same_those_of_the_prompt_as_well(report: Any, engine: str) -> None:
    for sequence, expected in report["plain"]["answers"].items():
        answer = report[engine]["answers"][sequence]
        for name in ("log_probs", "prompt_log_probs"):
            assert answer[name] == pytest.approx(expected[name], abs=1e-4), (sequence, name)
        flat = [value for token in expected["top"] for value in token]
        assert [value for token in answer["top"] for value in token] == pytest.approx(flat, abs=1e-4), sequence
    asked = [len(answer["prompt_log_probs"]) for answer in report["plain"]["answers"].values()]
    assert max(asked) > 3 * 64  # prompts of several blocks and chunks


def test_what_is_tested_did_happen(report: Any) -> None:
    assert {engine for engine in ("plain", *ENGINES) if report[engine]["evicted"]} == {
        engine for engine in ENGINES if "small cache" in engine
    }
    assert {engine for engine in ("plain", *ENGINES) if report[engine]["skipped"]} == {
        engine for engine in ENGINES if "prefix caching" in engine or "both" in engine
    }


@pytest.mark.parametrize("engine", ("plain", *ENGINES))
def test_rows_that_are_ended_early_leave_nothing(report: Any, engine: str) -> None:
    assert report[engine]["ended"] == list(range(1, 8))
    assert report[engine]["usage"] == 0
