from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def outcome(in_megatron: Callable[..., Any], tiny_llama: Path) -> Any:
    return in_megatron(__file__, "drivers.py", "text", str(tiny_llama))


def test_text_survives_the_round_trip(outcome: Any) -> None:
    assert outcome["decoded"] == outcome["streamed"] == "naïve 猫 👩‍🚀 é"


def test_a_stream_never_cuts_a_character(outcome: Any) -> None:
    assert outcome["cut"] == 0


def test_every_byte_is_spelt_differently(outcome: Any) -> None:
    assert outcome["spelt"] == 256


def test_messages_go_through_the_chat_template(outcome: Any) -> None:
    assert "Hi" in outcome["chat"] and outcome["chat"] != "Hi"


def test_what_is_no_list_of_messages_is_refused(outcome: Any) -> None:
    assert all("JSON list of messages" in refusal for refusal in outcome["refusals"])


def test_bytes_that_are_no_text_do_not_end_a_stream(in_megatron: Callable[..., Any]) -> None:
    outcome = in_megatron(__file__, "drivers.py", "byte_fallback")
    assert outcome["text"] == outcome["streamed"]
    assert outcome["text"].startswith("hello\n")
    assert outcome["text"].endswith("world🙂a")
