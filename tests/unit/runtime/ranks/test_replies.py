from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_answers_end_at_stop_words_and_streams_tell_no_part_of_them(
    in_megatron: Callable[..., Any], tiny_llama: Path
) -> None:
    outcome = in_megatron(__file__, "drivers.py", "stop_words", str(tiny_llama))
    assert outcome["wrong"] == []
    assert 200 < outcome["stopped"] < 1900
