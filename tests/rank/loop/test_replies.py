"""Answers end at stop words and at ends of characters, and streams agree with them."""

import random
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from trition_repo_gen.runtime.common.protocol import Deltas, Done, SequenceRequest
from trition_repo_gen.runtime.rank.engines.api import Finished, StepResult
from trition_repo_gen.runtime.rank.engines.text import Prompt, TextCodec
from trition_repo_gen.runtime.rank.loop.broadcast import NewSequence
from trition_repo_gen.runtime.rank.loop.replies import Replies


def stream(codec: TextCodec, tokens: Sequence[int], stop_words: Sequence[str] = ()) -> tuple[str, Done]:
    """Generate tokens one by one; return all that was streamed until the last, and the last message."""
    replies = Replies(codec, eos_ids=[])
    request = SequenceRequest(prompt="", stream=True, stop_words=list(stop_words))
    replies.add(NewSequence(1, 0, request, Prompt("", [1])))
    streamed, done = "", []
    for end, token in enumerate(tokens, 1):
        finished = {1: Finished(tokens=list(tokens[:end]), out_of_tokens=True)} if end == len(tokens) else {}
        messages = replies.after_step(StepResult(finished, {1: [token]}))
        streamed += "".join(
            text for message in messages if isinstance(message, Deltas) for _, text in message.sequences
        )
        done += [message for message in messages if isinstance(message, Done)]
    (last,) = done
    return streamed, last


def first_stop_word(text: str, stop_words: Sequence[str]) -> int:
    """Return where the first of the stop words begins in a text, -1 if it has none."""
    return min((at for word in stop_words if (at := text.find(word)) >= 0), default=-1)


def test_an_answer_ends_at_a_stop_word_and_its_stream_shows_no_part_of_it(tiny_llama: Path) -> None:
    codec = TextCodec(AutoTokenizer.from_pretrained(tiny_llama))
    choose = random.Random(0)
    stopped = 0
    for _ in range(2000):
        stop_words = ["".join(choose.choices("ab", k=choose.randint(1, 5))) for _ in range(choose.randint(1, 3))]
        tokens = codec.encode(SequenceRequest(prompt="".join(choose.choices("abc", k=12)))).tokens
        # What the stream must agree with: a search of the whole text after every token.
        expected, reason = codec.decode(tokens), "length"
        for end in range(1, len(tokens) + 1):
            if (at := first_stop_word(codec.decode(tokens[:end]), stop_words)) >= 0:
                expected, reason = expected[:at], "stop"
                stopped += 1
                break

        streamed, done = stream(codec, tokens, stop_words)

        found = (done.answer.text, streamed + done.rest, done.answer.finish_reason)
        assert found == (expected, expected, reason), stop_words
    assert 200 < stopped < 1900


def test_bytes_that_are_no_text_do_not_end_a_stream() -> None:
    """A tokenizer that spells what it does not know in bytes, as Llama 2's does."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"▁hello": 256, "▁world": 257, "a": 258}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    codec = TextCodec(PreTrainedTokenizerFast(tokenizer_object=tokenizer))

    streamed, done = stream(codec, [256, 0x0A, 0xF0, 257, *"🙂".encode(), 258])

    assert done.answer.text == streamed + done.rest
    assert done.answer.text.startswith(" hello\n")
    assert done.answer.text.endswith("world🙂a")
