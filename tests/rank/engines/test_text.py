"""Text becomes tokens, and tokens become text, whole and piece by piece."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from trition_repo_gen.runtime.common.protocol import SequenceRequest
from trition_repo_gen.runtime.rank.engines.text import PromptError, TextCodec

SAMPLE = "naïve 猫 👩‍🚀 é"


@pytest.fixture(scope="module")
def codec(tiny_llama: Path) -> TextCodec:
    return TextCodec(AutoTokenizer.from_pretrained(tiny_llama))


def test_text_survives_the_round_trip(codec: TextCodec) -> None:
    tokens = codec.encode(SequenceRequest(prompt=SAMPLE)).tokens
    stream = codec.stream()
    pieces = [stream.push(token) for token in tokens]
    assert codec.decode(tokens) == "".join(pieces) == SAMPLE


def test_a_stream_never_splits_a_character(codec: TextCodec) -> None:
    stream = codec.stream()
    pieces = [stream.push(token) for token in codec.encode(SequenceRequest(prompt=SAMPLE)).tokens]
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_every_byte_is_spelt_differently(codec: TextCodec) -> None:
    assert len({codec.spell(token) for token in range(256)}) == 256


def test_messages_go_through_the_chat_template(codec: TextCodec) -> None:
    messages = json.dumps([{"role": "user", "content": "Hi"}])
    text = codec.encode(SequenceRequest(prompt=messages, chat=True)).text
    assert "Hi" in text and text != "Hi"


@pytest.mark.parametrize("prompt", ["Hi", "[]", '["Hi"]', '{"role": "user"}'])
def test_what_is_no_list_of_messages_is_refused(prompt: str, codec: TextCodec) -> None:
    with pytest.raises(PromptError, match="JSON list of messages"):
        codec.encode(SequenceRequest(prompt=prompt, chat=True))
