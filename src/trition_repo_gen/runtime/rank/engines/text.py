"""Text to tokens and back, with the tokenizer that belongs to the checkpoint."""

import json
from dataclasses import dataclass
from typing import Any

from tokenizers.decoders import DecodeStream

from ...common.protocol import SequenceRequest, register


class PromptError(ValueError):
    """The prompt cannot be made into tokens; the text is one sentence for the client."""


@register
@dataclass(frozen=True)
class Images:
    """A prompt's images, cut into patches.

    `patches` are float32 values, `patch_size` a patch; `grids` say for each image how many patches it has in time,
    height and width.
    """

    patches: bytes
    patch_size: int
    grids: list[list[int]]


@register
@dataclass(frozen=True)
class Prompt:
    """A prompt as the model sees it: the text after the chat template, its tokens, and its images if it has any."""

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
        """Return the sequence's prompt, with the chat template applied where asked for.

        Chat templates are code from the checkpoint: `transformers` renders them in Jinja's immutable sandbox.

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
        """Return one token's text; a token that is no whole character is spelt as the vocabulary does."""
        text: str = self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
        if "\N{REPLACEMENT CHARACTER}" in text or not text:
            spelling: str | None = self._tokenizer.convert_ids_to_tokens(token)
            return f"<{token}>" if spelling is None else spelling
        return text

    def stream(self) -> "TextStream":
        """Return a decoder that takes tokens one by one."""
        return TextStream(self._tokenizer)


class TextStream:
    """Text that grows with its tokens and never ends within a character."""

    def __init__(self, tokenizer: Any):
        self._backend = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self.text = ""

    def push(self, token: int) -> str:
        """Add a token; return what it adds to `text`, which may be nothing yet."""
        try:
            piece = self._stream.step(self._backend, token) or ""
        except Exception:  # tokenizers has no class for it
            # Bytes that are no UTF-8: a decoder with byte fallback then spells those before differently as well
            # (tokenizers 0.22, "Invalid prefix encountered"). What was said stays; go on from here.
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
