"""Positions, the paged cache and images, in the ranks' environment."""

from collections.abc import Callable
from typing import Any

import pytest


def test_positions_are_those_of_hugging_face(in_megatron: Callable[..., Any]) -> None:
    outcome = in_megatron(__file__, "drivers.py", "positions")
    assert outcome["equal"] == [True] * 4
    fewer, more, other = outcome["refused"]
    assert fewer == "the prompt has fewer than 1 images"
    assert more == "the prompt has more than 0 images"
    assert other == "an image of 6 tokens has another number of places in the prompt"


def test_cached_attention_is_dense_attention_whoever_joins(in_megatron: Callable[..., Any]) -> None:
    outcome = in_megatron(__file__, "drivers.py", "cache")
    assert outcome["distance"] < 1e-5
    assert outcome["room"] == 8
    assert outcome["usage"] == 7 / 8  # four blocks, one, and two
    assert outcome["fits"] == [True, False]
    assert outcome["empty"] == 0


@pytest.fixture(scope="module")
def images(in_megatron: Callable[..., Any]) -> Any:
    return in_megatron(__file__, "drivers.py", "images")


def test_every_format_becomes_upright_rgb(images: Any) -> None:
    assert images["kinds"] == [["RGB", [30, 20]]] * 5
    assert images["transparent"] == [255, 255, 255]
    assert images["turned"] == [20, 30]


def test_a_picture_that_takes_hours_to_decode_is_refused(images: Any) -> None:
    assert images["progressive"] == images["trailer"] == "opened"
    for refusal in (*images["endless"], images["comments"]):
        assert "more than 100 scans or 1000 segments" in refusal


def test_hostile_and_broken_pictures_are_refused_in_a_sentence(images: Any) -> None:
    bomb, half, *unknown = images["refused"]
    assert bomb == "images has an image of 10000 x 10000 pixels; this server takes 1000000 pixels at most."
    assert half.startswith("images has an image that cannot be read (")
    assert unknown == ["images has an image that cannot be read (no known format); send PNG, JPEG or WebP."] * 3
