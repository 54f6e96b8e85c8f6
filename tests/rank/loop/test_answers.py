"""Answers, plain and streamed: where they begin, where they stop, and what is told of them."""

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests.rank.sample_tokenizers import KINDS, TEXTS, fast
from trition_repo_gen.runtime.common.protocol import Answer, Deltas, Done, SequenceRequest
from trition_repo_gen.runtime.common.wire import bytes_of_spelling
from trition_repo_gen.runtime.rank.engines.api import Finished, StepResult
from trition_repo_gen.runtime.rank.engines.prompts import Prompt
from trition_repo_gen.runtime.rank.engines.text import TextCodec
from trition_repo_gen.runtime.rank.loop.broadcast import EndSequence, NewSequence
from trition_repo_gen.runtime.rank.loop.replies import Replies, is_watched


@pytest.fixture(scope="module", params=KINDS)
def codec(request: pytest.FixtureRequest) -> TextCodec:
    return TextCodec(fast(KINDS[request.param]()))


@pytest.fixture(scope="module")
def bytes_codec() -> TextCodec:
    """Llama 2's kind of tokenizer, in which nearly every character is a token."""
    return TextCodec(fast(KINDS["sentencepiece"]()))


def answer(codec: TextCodec, prompt: Prompt, tokens: list[int], eos: int = -1, **values: Any) -> tuple[Answer, str]:
    """Return what becomes of a sequence whose engine samples `tokens`, and the text that its client gets.

    As the engine does, go on for a step after a stop word was met.
    """
    sequence = SequenceRequest(prompt="", **{"max_length": len(tokens), **values})
    replies = Replies(codec, [eos])
    replies.add(NewSequence(1, 0, sequence, Prompt(prompt.text if sequence.echo else "", prompt.tokens)))
    told = ""
    limit = max(1, sequence.max_length)
    last = False
    for count, token in enumerate(tokens, 1):
        last = last or count == limit or token == eos
        log_probs = [-float(index) for index in range(count)]
        prompt_log_probs = [-100.0] * (len(prompt.tokens) - 1)
        finished = Finished(tokens[:count], count >= limit, 0.0, log_probs, prompt_log_probs=prompt_log_probs)
        watched = {1: [token]} if is_watched(sequence) else {}
        messages = replies.after_step(StepResult({1: finished} if last else {}, watched))
        told += "".join(text for message in messages if isinstance(message, Deltas) for _, text in message.sequences)
        if last:
            (done,) = (message for message in messages if isinstance(message, Done))
            return done.answer, told + done.rest if sequence.stream else done.answer.text
        last = any(isinstance(message, EndSequence) for message in messages)
    raise AssertionError("the tokens did not suffice")


def halves(codec: TextCodec, text: str) -> Iterator[tuple[Prompt, list[int], str]]:
    """Yield a prompt, the tokens of its answer and the answer's text, wherever a text may be cut into the two."""
    tokens = codec.encode_plain(text)
    for cut in range(1, len(tokens)):
        prompt, rest = codec.decode(tokens[:cut]), codec.decode(tokens[cut:], tokens[:cut])
        if "\N{REPLACEMENT CHARACTER}" not in prompt:
            yield Prompt(prompt, tokens[:cut]), tokens[cut:], rest


@pytest.mark.parametrize("text", TEXTS)
def test_plain_streamed_and_echoed_answers_are_alike(codec: TextCodec, text: str) -> None:
    for prompt, tokens, expected in halves(codec, text):
        plain, _ = answer(codec, prompt, tokens, log_probs=True)
        streamed, told = answer(codec, prompt, tokens, log_probs=True, stream=True)
        echoed, _ = answer(codec, prompt, tokens, echo=True, log_probs=True)
        _, told_with_prompt = answer(codec, prompt, tokens, echo=True, stream=True)

        assert plain == streamed
        assert plain.text == told == expected
        assert echoed.text == told_with_prompt == prompt.text + expected
        assert b"".join(map(bytes_of_spelling, plain.tokens)).decode() == expected
        assert b"".join(map(bytes_of_spelling, echoed.tokens)).decode() == prompt.text + expected
        assert len(echoed.tokens) == len(echoed.log_probs) + 1


def test_a_stop_word_that_begins_with_a_space(codec: TextCodec) -> None:
    tokens = codec.encode_plain("Hello my name and my name")
    prompt, rest = Prompt("Hello", tokens[:1]), tokens[1:]
    begun = codec.decode(tokens[:1])
    whole = codec.decode(tokens)
    stop = " name"
    expected = whole[len(begun) : whole.index(stop)]
    for stream in (False, True):
        found, told = answer(codec, prompt, rest, stop_words=[stop], stream=stream)
        assert (found.text, found.finish_reason) == (expected, "stop")
        assert told == expected


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_word_of_a_special_token_stops_at_the_token(codec: TextCodec, stream: bool) -> None:
    (end,) = codec.encode_plain("<|im_end|>")
    tokens = codec.encode_plain("Hello my name")
    prompt = Prompt("Hello", tokens[:1])
    expected = codec.decode(tokens[1:], tokens[:1])
    for stop in ("<|im_end|>", f"{expected[-1]}<|im_end|>"):
        found, told = answer(codec, prompt, [*tokens[1:], end, *tokens], stop_words=[stop], stream=stream)
        shown = expected if stop == "<|im_end|>" else expected[:-1]
        assert (found.text, told, found.finish_reason) == (shown, shown, "stop")
        assert found.completion_tokens == len(tokens)
    found, told = answer(codec, prompt, [*tokens[1:], end, *tokens[1:]], stop_words=["never"], stream=stream)
    assert told == found.text == codec.decode(tokens[1:] * 2, tokens[:1])


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_word_counts_after_the_shortest_length(bytes_codec: TextCodec, stream: bool) -> None:
    codec = bytes_codec
    tokens = codec.encode_plain("xaybzb")[1:]  # without the space before
    assert len(tokens) == 6
    cases = {0: "xay", 3: "xay", 4: "xaybz", 6: "xaybzb"}
    for min_length, expected in cases.items():
        found, told = answer(
            codec, Prompt("n", tokens[:1]), tokens, stop_words=["b"], min_length=min_length, stream=stream
        )
        assert found.text == told == expected
        assert found.finish_reason == ("length" if expected == "xaybzb" else "stop")


def test_an_end_is_a_stop_and_a_cut_is_a_length(codec: TextCodec) -> None:
    tokens = codec.encode_plain("Hello my name")
    eos = codec.encode_plain("</s>")[0]
    prompt = Prompt("Hello", tokens[:1])
    assert answer(codec, prompt, [*tokens[1:], eos], eos=eos)[0].finish_reason == "stop"
    assert answer(codec, prompt, [*tokens[1:], eos], eos=eos, max_length=1)[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_no_new_tokens(codec: TextCodec, stream: bool) -> None:
    tokens = codec.encode_plain("Hello my name")
    prompt = Prompt(codec.decode(tokens[:-1]), tokens[:-1])
    values: dict[str, Any] = {"max_length": 0, "echo": True, "log_probs": True, "stream": stream}
    found, told = answer(codec, prompt, tokens[-1:], **values)
    assert (found.finish_reason, found.completion_tokens) == ("length", 0)
    assert found.text == prompt.text
    assert told == prompt.text
    assert len(found.tokens) == len(prompt.tokens)
    assert found.log_probs == [-100.0] * (len(prompt.tokens) - 1)


def first(text: str, words: list[str]) -> int:
    """Return where the first of `words` begins in `text`, -1 if there is none."""
    return min((at for word in words if (at := text.find(word)) >= 0), default=-1)


def test_stop_words_are_found_as_by_a_search_of_the_whole_text(bytes_codec: TextCodec) -> None:
    """Answers of few letters and special tokens, against a search after every token."""
    codec = bytes_codec
    (end,) = codec.encode_plain("<|im_end|>")
    letters = {letter: codec.encode_plain(f"x{letter}")[-1] for letter in "abc"}
    choose = random.Random(0)
    stopped = 0
    for _ in range(1500):
        special = choose.random() < 0.3
        alphabet = ["a", "b", "<|im_end|>"] if special else ["a", "b"]
        words = ["".join(choose.choices(alphabet, k=choose.randint(1, 5))) for _ in range(choose.randint(1, 3))]
        pieces = choose.choices(["a", "b", "c", "<|im_end|>"] if special else ["a", "b", "c"], k=40)
        tokens = [letters.get(piece, end) for piece in pieces]
        min_length = choose.choice([0, 0, 3])
        searched = any("<" in word for word in words)

        expected, reason = "".join(piece for piece in pieces if len(piece) == 1), "length"
        shown = ["".join(p for p in pieces[:n] if searched or len(p) == 1) for n in range(len(pieces) + 1)]
        for count in range(min_length + 1, len(pieces) + 1):
            before = len(shown[count - 1])
            found = [at for word in words if (at := shown[count].find(word, max(0, before - len(word) + 1))) >= 0]
            if found:
                expected, reason = shown[count][: min(found)].replace("<|im_end|>", ""), "stop"
                stopped += 1
                break
        for stream in (False, True):
            values: dict[str, Any] = {"stop_words": words, "min_length": min_length, "stream": stream}
            got, told = answer(codec, Prompt("x", [letters["a"]]), tokens, **values)
            assert (got.text, told, got.finish_reason) == (expected, expected, reason), json.dumps([words, pieces])
    assert 200 < stopped < 1400


def test_bytes_that_are_no_text_end_no_stream(bytes_codec: TextCodec) -> None:
    codec = bytes_codec
    names = ["<0x0A>", "<0xF0>", "\u2581my", *(f"<0x{byte:02X}>" for byte in "🙂".encode()), "a"]
    tokens = [codec.vocabulary._backend.token_to_id(name) for name in names]
    prompt = Prompt("Hello", codec.encode_plain("Hello"))
    for cut in range(1, len(tokens) + 1):
        plain, _ = answer(codec, prompt, tokens[:cut])
        streamed, told = answer(codec, prompt, tokens[:cut], stream=True)
        assert plain.text == streamed.text == told
        # What was told before a byte that is no text stays.
        expected = "\n\N{REPLACEMENT CHARACTER} my🙂a"
        assert expected.startswith(told.removesuffix("\N{REPLACEMENT CHARACTER}"))
