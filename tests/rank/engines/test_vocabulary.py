"""Texts, streams and bytes of tokens are those of the reference library, for every kind of tokenizer."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from tests.rank.sample_tokenizers import CONTROL, KINDS, TEXTS, fast
from trition_repo_gen.runtime.common.wire import bytes_of_spelling
from trition_repo_gen.runtime.rank.engines.text import TextCodec


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return fast(KINDS[request.param]())


@pytest.fixture(scope="module")
def codec(tokenizer: PreTrainedTokenizerFast) -> TextCodec:
    return TextCodec(tokenizer)


def decode(tokenizer: PreTrainedTokenizerFast, tokens: list[int]) -> str:
    text = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("text", TEXTS)
def test_an_answer_goes_on_as_the_reference_library_decodes_it(
    tokenizer: PreTrainedTokenizerFast, codec: TextCodec, text: str
) -> None:
    tokens = tokenizer.encode(text, add_special_tokens=False)
    bos = tokenizer.convert_tokens_to_ids("<s>")
    for prompt in ([], [bos], *([*tokens[:cut]] for cut in range(1, len(tokens)))):
        answer = tokens[len([token for token in prompt if token != bos]) :]
        start, whole = decode(tokenizer, prompt), decode(tokenizer, prompt + answer)
        if "\N{REPLACEMENT CHARACTER}" in start:
            continue  # prompts end with whole characters
        assert whole.startswith(start)
        expected = whole[len(start) :]

        assert codec.decode(answer, prompt) == expected
        stream = codec.stream(prompt)
        pieces = [stream.push(token) for token in answer]
        assert "".join(pieces) + stream.end() == expected
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
        spellings = codec.vocabulary.spell_text(answer, expected) if not start else [*map(codec.spell, answer)]
        assert b"".join(map(bytes_of_spelling, spellings)).decode() == expected


def test_every_token_has_a_spelling_of_its_own(tokenizer: PreTrainedTokenizerFast, codec: TextCodec) -> None:
    spellings = [codec.spell(token) for token in range(len(tokenizer))]
    assert len(set(spellings)) == len(tokenizer)


def test_special_tokens_are_no_text_and_are_spelt(tokenizer: PreTrainedTokenizerFast, codec: TextCodec) -> None:
    ids = tokenizer.convert_tokens_to_ids(list(CONTROL))
    assert [codec.decode([token]) for token in ids] == [""] * len(CONTROL)
    assert [codec.spell(token) for token in ids] == [*CONTROL]


def test_bytes_of_no_text_are_replaced_alike_in_answer_and_stream(
    tokenizer: PreTrainedTokenizerFast, codec: TextCodec
) -> None:
    choose = random.Random(0)
    for _ in range(300):
        prompt, tokens = ([choose.randrange(len(tokenizer)) for _ in range(12)] for _ in range(2))
        stream = codec.stream(prompt)
        streamed = "".join(map(stream.push, tokens)) + stream.end()
        assert codec.decode(tokens, prompt) == streamed
        if "\N{REPLACEMENT CHARACTER}" not in decode(tokenizer, [*prompt, *tokens]):
            assert decode(tokenizer, [*prompt, *tokens]) == decode(tokenizer, prompt) + streamed


def test_a_byte_is_itself() -> None:
    for kind, name in (("sentencepiece", "<0xE7>"), ("byte-level", "\N{LATIN SMALL LETTER C WITH CEDILLA}")):
        tokenizer = fast(KINDS[kind]())
        token = tokenizer.convert_tokens_to_ids(name)
        assert TextCodec(tokenizer).spell(token) == r"bytes:\xe7"
        assert bytes_of_spelling(TextCodec(tokenizer).spell(token)) == b"\xe7"


def test_a_first_space_is_spelt_where_the_text_has_it() -> None:
    codec = TextCodec(fast(KINDS["sentencepiece"]()))
    tokens = codec.encode_plain("Hello my")
    assert codec.vocabulary.spell_text(tokens, "Hello my") == ["Hello", " my"]
    assert [*map(codec.spell, tokens)] == [" Hello", " my"]


def test_a_decoder_that_looks_at_the_token_before() -> None:
    tokenizer = Tokenizer(models.BPE(vocab={"a</w>": 0, "b": 1, "c</w>": 2, "d</w>": 3}, merges=[]))
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    codec = TextCodec(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    assert codec.decode([1, 2, 3], [0]) == tokenizer.decode([0, 1, 2, 3])[1:] == " bc d"
