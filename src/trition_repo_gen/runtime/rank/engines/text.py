"""Encode text to tokens and decode tokens to text, with the checkpoint's tokenizer."""

import json
from dataclasses import dataclass
from typing import Any

from tokenizers.decoders import DecodeStream

from ...common.protocol import SequenceRequest, register


class PromptError(ValueError):
    """The prompt cannot be encoded. The message is a sentence for the client."""


@register
@dataclass(frozen=True)
class Images:
    """A prompt's images as patches.

    `patches` are float32 values, `patch_size` of them for each patch; `grids` have the number of patches in time,
    height and width of each image.
    """

    patches: bytes
    patch_size: int
    grids: list[list[int]]


@register
@dataclass(frozen=True)
class Prompt:
    """An encoded prompt: its text after the chat template, its tokens, and its images if it has any."""

    text: str
    tokens: list[int]
    images: Images | None = None


class TextCodec:
    """Encodes prompts and decodes answers.

    Args:
        tokenizer: a fast tokenizer of `transformers`.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer

    def max_token_bytes(self) -> int:
        """Return the length of the longest token, in bytes of UTF-8 as the vocabulary spells it."""
        return max(len(token.encode()) for token in self._tokenizer.get_vocab())

    def encode(self, sequence: SequenceRequest) -> Prompt:
        """Return the sequence's encoded prompt, with the chat template applied if the sequence asks for it.

        A chat template is code from the checkpoint: `transformers` renders it in Jinja's immutable sandbox.

        Raises:
            PromptError: the prompt is empty, or not a list of messages that the template takes.
        """
        if not sequence.chat:
            return self._prompt(sequence.prompt, self._tokenizer(sequence.prompt)["input_ids"])
        if not self._tokenizer.chat_template:
            raise PromptError("This model has no chat template; send plain text without apply_chat_template.")
        messages = messages_of(sequence.prompt)
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # whatever the checkpoint's template raises
            raise PromptError(f"The model's chat template refuses these messages: {error}.") from None
        return self._prompt(text, self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _prompt(self, text: str, tokens: list[int]) -> Prompt:
        if not tokens:
            raise PromptError("The prompt has no tokens; send some text.")
        return Prompt(text, tokens)

    def decode(self, tokens: list[int]) -> str:
        """Return the text of `tokens` without special tokens."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def spell(self, token: int) -> str:
        """Return one token's text; for a token that is no whole character, its spelling in the vocabulary."""
        text: str = self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
        if "\N{REPLACEMENT CHARACTER}" in text or not text:
            spelling: str | None = self._tokenizer.convert_ids_to_tokens(token)
            return f"<{token}>" if spelling is None else spelling
        return text

    def stream(self) -> "TextStream":
        """Return a decoder that takes tokens one by one."""
        return TextStream(self._tokenizer)


class TextStream:
    """A text that grows token by token and never ends within a character."""

    def __init__(self, tokenizer: Any):
        self._backend = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self.text = ""

    def push(self, token: int) -> str:
        """Add a token; return the characters that it completes, possibly none."""
        try:
            piece = self._stream.step(self._backend, token) or ""
        except Exception:  # tokenizers has no class for it
            # Bytes that are no UTF-8: a decoder with byte fallback then decodes earlier bytes differently, too
            # (tokenizers 0.22, "Invalid prefix encountered"). Keep the text so far and go on with a new decoder.
            self._stream = DecodeStream(skip_special_tokens=True)
            piece = self._stream.step(self._backend, token) or ""
        self.text += piece
        return piece


def messages_of(prompt: str) -> list[dict[str, Any]]:
    """Return a prompt's chat messages.

    Raises:
        PromptError: it is no JSON list of messages.
    """
    try:
        messages = json.loads(prompt)
    except ValueError as error:
        raise PromptError(
            f"With apply_chat_template a prompt is a JSON list of messages; this is not JSON: {error}."
        ) from None
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) and "role" in m for m in messages):
        raise PromptError(
            'With apply_chat_template a prompt is a JSON list of messages like {"role": "user", "content": "Hi"}.'
        )
    return messages
