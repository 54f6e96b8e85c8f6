"""What each token of a tokenizer adds to a text: the one place that knows a token's bytes."""

import codecs
import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

from ...common.wire import bytes_of_spelling, spell_bytes

_LOCAL_DECODERS = frozenset(
    ("Sequence", "ByteLevel", "ByteFallback", "Fuse", "Replace", "Strip", "Metaspace", "WordPiece")
)
"""Decoders of `tokenizers` that decode a token alike after any other; at most the first token of a text differs."""
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""What SentencePiece has in its tokens for a space."""
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Vocabulary:
    """Tokens as bytes.

    A text's bytes are those of its tokens one after the other, without special tokens; what of them is no UTF-8 becomes
    U+FFFD. Such text equals `decode(tokens, skip_special_tokens=True)` of `transformers`, but for a decoder with byte
    fallback where some bytes of a run are no UTF-8: it replaces all bytes of the run, the valid ones as well.

    Args:
        tokenizer: a fast tokenizer of `transformers`.
    """

    def __init__(self, tokenizer: Any):
        self._backend = tokenizer.backend_tokenizer
        self._decoders = _decoders(self._backend.decoder)
        self._is_local = self._decoders <= _LOCAL_DECODERS
        self.special = {
            token: added.content for token, added in self._backend.get_added_tokens_decoder().items() if added.special
        }
        """Texts of the special tokens, which answers are shown without, by id."""
        self._anchor = self._find_anchor()
        self._bytes: dict[tuple[int, int], bytes] = {}
        self._spellings: dict[int, str] = {}

    def bytes_of(self, token: int, previous: int | None = None) -> bytes:
        """Return what a token adds to a text that has begun; nothing for a special token.

        Args:
            token: an id.
            previous: the token before it, which only unusual decoders look at.
        """
        if token in self.special:
            return b""
        before = self._anchor if self._is_local or previous is None else previous
        found = self._bytes.get((before, token))
        if found is None:
            start, whole = self._decode([before]), self._decode([before, token])
            found = self._bytes[before, token] = self._raw_bytes(token, whole[len(start) :])
        return found

    def first_bytes_of(self, token: int) -> bytes:
        """Return what a token adds to an empty text: many decoders leave a first space out."""
        if token in self.special:
            return b""
        return self._raw_bytes(token, self._decode([token]))

    def spell(self, token: int) -> str:
        """Return a token's text, that of a special token as well; see `wire.spell_bytes` for one that has none."""
        spelling = self._spellings.get(token)
        if spelling is None:
            data = self.special.get(token, "").encode() or self.bytes_of(token)
            name: str | None = self._backend.id_to_token(token)
            if data and name is not None and self._has_another_for(data, name):
                spelling = spell_bytes(data, always=True)
            else:
                spelling = spell_bytes(data) if data else f"<{token}>" if name is None else name
            self._spellings[token] = spelling
        return spelling

    def _has_another_for(self, data: bytes, name: str) -> bool:
        """Whether a token for a byte has the text of another token: both may be among the most likely ones."""
        if "ByteFallback" not in self._decoders or not _BYTE_TOKEN.fullmatch(name):
            return False
        text = data.decode(errors="replace")
        return any(self._backend.token_to_id(other) is not None for other in (text, text.replace(" ", _SPACE)))

    def spell_text(self, tokens: Sequence[int], text: str) -> list[str]:
        """Return the spellings of all tokens of a text, whose first one has its space only where the text has it."""
        spellings = [self.spell(token) for token in tokens]
        first = next((index for index, token in enumerate(tokens) if self.bytes_of(token)), None)
        if first is None or (opening := spell_bytes(self.first_bytes_of(tokens[first]))) == spellings[first]:
            return spellings
        opened = [*spellings[:first], opening, *spellings[first + 1 :]]
        data = text.encode()
        return max(opened, spellings, key=lambda each: self._matching(tokens, each, data))

    def _matching(self, tokens: Sequence[int], spellings: Sequence[str], text: bytes) -> int:
        """Return how many bytes the text and its spelt tokens have in common; it may lack special tokens."""
        end = 0
        for token, spelling in zip(tokens, spellings, strict=True):
            data = bytes_of_spelling(spelling)
            if text.startswith(data, end):
                end += len(data)
            elif token not in self.special:
                break
        return end

    def has_text(self, tokens: Sequence[int]) -> bool:
        """Whether any of the tokens is not special."""
        return any(self.bytes_of(token) for token in reversed(tokens))

    def max_token_bytes(self) -> int:
        """Return the length of the longest token, in bytes of UTF-8 as the vocabulary spells it."""
        return max(len(token.encode()) for token in self._backend.get_vocab())

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._backend.decode(tokens, skip_special_tokens=True)
        return text

    def _raw_bytes(self, token: int, text: str) -> bytes:
        """Return the bytes of a token that decodes to `text`, where the bytes of no character are U+FFFD."""
        if _REPLACEMENT not in text:
            return text.encode()
        name: str = self._backend.id_to_token(token) or ""
        if "ByteFallback" in self._decoders and (match := _BYTE_TOKEN.fullmatch(name)):
            return bytes.fromhex(match[1])
        if "ByteLevel" in self._decoders and all(character in _BYTES for character in name):
            return bytes(_BYTES[character] for character in name)
        return text.encode()

    def _find_anchor(self) -> int:
        """Return a token of which decoding leaves text, so that what follows it is not at the beginning."""
        usual = [
            token for text in ("a", "0", ".") for token in self._backend.encode(text, add_special_tokens=False).ids
        ]
        token: int
        for token in chain(usual, range(self._backend.get_vocab_size())):
            text = self._decode([token])
            if text.strip() and _REPLACEMENT not in text:
                return token
        return 0


class TextStream:
    """Text that grows with its tokens and never ends within a character.

    Args:
        vocabulary: the tokenizer's.
        prompt: the tokens before the first.
    """

    def __init__(self, vocabulary: Vocabulary, prompt: Sequence[int] = ()):
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._has_begun = vocabulary.has_text(prompt)
        self._previous = prompt[-1] if prompt else None

    def push(self, token: int) -> str:
        """Add a token; return the text that it completes, which may be none yet."""
        if self._has_begun:
            data = self._vocabulary.bytes_of(token, self._previous)
        else:
            data = self._vocabulary.first_bytes_of(token)
            self._has_begun = bool(self._vocabulary.bytes_of(token))
        self._previous = token
        return self._decoder.decode(data)

    def end(self) -> str:
        """Return U+FFFD for the bytes of a character that was not completed, if there are any."""
        return self._decoder.decode(b"", final=True)


def _decoders(decoder: Any) -> frozenset[str]:
    """Return the types of a decoder of `tokenizers` and of what it consists of."""
    if decoder is None:
        return frozenset()
    states, kinds = [json.loads(decoder.__getstate__())], set()
    while states:
        state = states.pop()
        kinds.add(state["type"])
        states += state.get("decoders", [])
    return frozenset(kinds)


def _byte_level_alphabet() -> dict[str, int]:
    """Return which byte each character of a byte-level vocabulary stands for (GPT-2, `bytes_to_unicode`)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTES = _byte_level_alphabet()
