"""Encode text to tokens and decode tokens to text, with the checkpoint's tokenizer."""

from collections.abc import Sequence
from typing import Any

from ...common.protocol import SequenceRequest
from .control_tokens import ControlTokens
from .messages import read_messages
from .prompts import Images, Prompt, PromptError
from .vocabulary import TextStream, Vocabulary

__all__ = ["Images", "Prompt", "PromptError", "TextCodec", "TextStream"]


class TextCodec:
    """Encodes prompts and decodes answers.

    Args:
        tokenizer: a fast tokenizer of `transformers`.
        allow_control_tokens_in_chat: whether the text of chat messages may become control tokens.
    """

    takes_images = False

    def __init__(self, tokenizer: Any, *, allow_control_tokens_in_chat: bool = False):
        self._tokenizer = tokenizer
        self.vocabulary = Vocabulary(tokenizer)
        special = {} if allow_control_tokens_in_chat else self.vocabulary.special
        self._control_tokens = ControlTokens(tokenizer, special)
        self._added_before = self._find_tokens_added_before()

    def max_token_bytes(self) -> int:
        """Return the length of the longest token, in bytes of UTF-8 as the vocabulary spells it."""
        return self.vocabulary.max_token_bytes()

    def encode(self, sequence: SequenceRequest) -> Prompt:
        """Return the sequence's encoded prompt, with the chat template applied if the sequence asks for it.

        A plain prompt may name control tokens by their text. In chat messages that stays text.

        Raises:
            PromptError: the prompt is empty, or not a list of messages that the template takes.
        """
        if not sequence.chat:
            return make_prompt(sequence.prompt, self.encode_plain(sequence.prompt))
        marked = self.render(read_messages(sequence.prompt, takes_images=self.takes_images))
        return make_prompt(self._control_tokens.unmark(marked), self._control_tokens.encode(marked))

    def encode_plain(self, text: str) -> list[int]:
        """Return the tokens of a plain prompt; a beginning of text that it writes itself is not added once more."""
        tokens: list[int] = self._tokenizer(text)["input_ids"]
        count = len(self._added_before)
        return tokens[count:] if count and tokens[count : 2 * count] == self._added_before else tokens

    def render(self, messages: list[dict[str, Any]]) -> str:
        """Return the chat template's text, in which control tokens of the messages have a mark.

        Chat templates are code from the checkpoint: `transformers` renders them in Jinja's immutable sandbox.

        Raises:
            PromptError: there is no template, or it refuses the messages.
        """
        if not self.chat_template:
            raise PromptError("This model has no chat template; send plain text without apply_chat_template.")
        try:
            return self._apply_template(self._control_tokens.mark(messages))
        except Exception as error:  # whatever the checkpoint's template raises
            reason = self._control_tokens.unmark(str(error))
            raise PromptError(f"The model's chat template refuses these messages: {reason}.") from None

    @property
    def chat_template(self) -> Any:
        """The model's chat template, if it has one."""
        return self._tokenizer.chat_template

    def _apply_template(self, messages: list[dict[str, Any]]) -> str:
        text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text

    def decode(self, tokens: Sequence[int], prompt: Sequence[int] = ()) -> str:
        """Return the text that `tokens` add to that of a prompt, without special tokens."""
        stream = self.stream(prompt)
        return "".join([*map(stream.push, tokens), stream.end()])

    def spell(self, token: int) -> str:
        """Return one token's text; see `wire.spell_bytes` for one that is no text by itself."""
        return self.vocabulary.spell(token)

    def stream(self, prompt: Sequence[int] = ()) -> TextStream:
        """Return a decoder that takes the tokens of an answer one by one."""
        return TextStream(self.vocabulary, prompt)

    def _find_tokens_added_before(self) -> list[int]:
        """Return the tokens that the tokenizer puts before every text."""
        plain = self._tokenizer("a", add_special_tokens=False)["input_ids"]
        tokens: list[int] = self._tokenizer("a")["input_ids"]
        for count in range(len(tokens) - len(plain) + 1):
            if tokens[count : count + len(plain)] == plain:
                return tokens[:count]
        return []


def make_prompt(text: str, tokens: list[int], images: Images | None = None) -> Prompt:
    """Return a prompt.

    Raises:
        PromptError: it has no tokens.
    """
    if not tokens:
        raise PromptError("The prompt has no tokens; send some text.")
    return Prompt(text, tokens, images)
