"""Keep the text of chat messages from becoming control tokens such as `<|im_end|>`.

A chat template writes control tokens into the same text as the messages. So what would become one is marked in the
messages before the template is applied; afterwards the control tokens without a mark are the template's.
"""

import re
import secrets
import threading
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer


class ControlTokens:
    """The special tokens of a tokenizer.

    Args:
        tokenizer: a fast tokenizer of `transformers`.
        special: the texts of its special tokens by id.
    """

    def __init__(self, tokenizer: Any, special: Mapping[int, str]):
        self._tokenizer = tokenizer
        self._ids = {text: token for token, text in special.items() if text}
        # It cannot be guessed, and templates that trim, split or change the case of a text keep it.
        self._mark = "".join(secrets.choice("0123456789") for _ in range(40))
        texts = sorted(self._ids, key=len, reverse=True)
        firsts = "".join(sorted({re.escape(text[0]) for text in texts}))
        self._written = re.compile(rf"(?=[{firsts}])(?:{'|'.join(map(re.escape, texts))})" if texts else "(?!)")
        self._begun = {text[:length] for text in texts for length in range(1, len(text))}
        self._longest = max(map(len, texts), default=0)
        self._lock = threading.Lock()
        self._apart: _TokenizerApart | None = None

    def mark(self, value: Any) -> Any:
        """Return a message, or a part of one, with a mark in each text that would become a control token.

        The beginning of one at the end of a text gets a mark as well, as another text may follow.
        """
        if isinstance(value, str):
            return self._mark_text(value)
        if isinstance(value, list):
            return [self.mark(each) for each in value]
        if isinstance(value, dict):
            return {self.mark(key): self.mark(each) for key, each in value.items()}
        return value

    def unmark(self, text: str) -> str:
        """Return the text without marks."""
        return text.replace(self._mark, "")

    def encode(self, marked: str) -> list[int]:
        """Return the tokens of a text, without those that the tokenizer adds; what has a mark is plain text."""
        text = self.unmark(marked)
        if text == marked or self._written.sub("\0", text) == self.unmark(self._written.sub("\0", marked)):
            tokens: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
            return tokens
        with self._lock:
            if self._apart is None:
                self._apart = _TokenizerApart(self._tokenizer.backend_tokenizer, self._ids)
        apart = self._apart
        return apart.encode(self.unmark(self._written.sub(lambda match: apart.stand_ins[match[0]], marked)))

    def _mark_text(self, text: str) -> str:
        positions = {match.start() for match in self._written.finditer(text)}
        end = len(text.rstrip())  # templates trim
        for start in range(max(0, end - self._longest + 1), end):
            if text[start:end] in self._begun:
                positions.add(start)
        for start in sorted(positions, reverse=True):
            text = f"{text[: start + 1]}{self._mark}{text[start + 1 :]}"
        return text


class _TokenizerApart:
    """A copy of a tokenizer that takes its special tokens' texts as plain text, and stand-ins for the tokens."""

    def __init__(self, backend: Tokenizer, ids: Mapping[str, int]):
        self._backend = Tokenizer.from_str(backend.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True
        secret = "".join(secrets.choice("0123456789") for _ in range(40))
        self.stand_ins = {text: f"{secret}-{token:08}-" for text, token in ids.items()}
        """What to write for each special token's text."""
        added = backend.get_added_tokens_decoder()
        self._backend.add_tokens(
            [
                AddedToken(
                    self.stand_ins[text],
                    single_word=added[token].single_word,
                    lstrip=added[token].lstrip,
                    rstrip=added[token].rstrip,
                    normalized=added[token].normalized,
                    special=False,
                )
                for text, token in ids.items()
            ]
        )
        self._special_ids = {self._backend.token_to_id(self.stand_ins[text]): token for text, token in ids.items()}

    def encode(self, text: str) -> list[int]:
        ids = self._backend.encode(text, add_special_tokens=False).ids
        return [self._special_ids.get(token, token) for token in ids]
