from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="module")
def outcome(in_megatron: Callable[..., Any]) -> Any:
    return in_megatron(__file__, "drivers.py", "sampling")


def test_no_token_is_drawn_that_hugging_face_filters_out(outcome: Any) -> None:
    assert outcome["outside"] == 0


def test_tokens_follow_the_distribution_of_hugging_face(outcome: Any) -> None:
    # Total variation of 4,000 draws from up to 50 tokens: about 0.04 where both agree.
    assert all(distance < 0.07 for distance in outcome["distance"]), outcome["distance"]


def test_no_token_of_a_large_vocabulary_is_drawn_for_certain(outcome: Any) -> None:
    assert outcome["noise_is_finite"]


def test_ends_are_held_back_as_long_as_hugging_face_does(outcome: Any) -> None:
    kept, expected, is_end = outcome["held_back"]
    assert kept == expected
    assert is_end == [False] * 3 + [True] * 3


def test_a_seed_gives_the_same_tokens_alone_and_among_others(outcome: Any) -> None:
    assert outcome["alone"] == outcome["together"]
    assert outcome["distinct"] > 10


def test_the_models_padding_is_never_sampled(outcome: Any) -> None:
    assert outcome["greedy"] == [49]


def test_a_penalty_counts_the_answer_so_far(outcome: Any) -> None:
    assert outcome["penalised"] == [49, 48, 47]
