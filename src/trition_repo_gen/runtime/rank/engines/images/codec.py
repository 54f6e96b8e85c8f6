"""Encode prompts with images to tokens and patches, with the model's processor and chat template."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from PIL import Image

from ....common.image_urls import ImageUrlError
from ....common.protocol import SequenceRequest
from ..text import Images, Prompt, PromptError, TextCodec, messages_of
from .decode import open_image
from .positions import positions_of


class MultimodalCodec(TextCodec):
    """A `TextCodec` for sequences with images.

    Args:
        processor: a processor of `transformers`, of a family that marks an image by a token of its own.
        max_pixels: largest number of pixels of an image.
        fetch: returns the bytes behind a URL, or raises `ImageUrlError`.
    """

    def __init__(self, processor: Any, max_pixels: int, fetch: Callable[[str], bytes]):
        super().__init__(processor.tokenizer)
        self._processor = processor
        self._max_pixels = max_pixels
        self._fetch = fetch
        self._mark: str = processor.image_token
        self._image_token = int(processor.tokenizer.convert_tokens_to_ids(self._mark))

    def encode(self, sequence: SequenceRequest) -> Prompt:
        """Return the sequence's prompt and its images' patches.

        A plain prompt that marks its images is encoded as it is; one without marks becomes a user's message.

        Raises:
            PromptError: an image cannot be read, or the prompt and the images do not match.
        """
        images = [self._open(image) for image in sequence.images]
        if sequence.chat:
            text = self._render(_with_images(messages_of(sequence.prompt), len(images)))
        elif images and self._mark not in sequence.prompt:
            text = self._render(_with_images([{"role": "user", "content": sequence.prompt}], len(images)))
        else:
            text = sequence.prompt
        marks = text.count(self._mark)
        if marks != len(images):
            raise PromptError(
                f"The prompt has {marks} places for images ({self._mark}), and images has {len(images)}; "
                "send as many of one as of the other."
            )
        if not images:
            return super().encode(replace(sequence, prompt=text, chat=False))
        return self._process(text, images)

    def _open(self, image: bytes | str) -> Image.Image:
        try:
            data = self._fetch(image) if isinstance(image, str) else image
        except ImageUrlError as error:
            raise PromptError(str(error)) from None
        return open_image(data, self._max_pixels)

    def _render(self, messages: list[dict[str, Any]]) -> str:
        """Apply the chat template; `transformers` does so in Jinja's immutable sandbox."""
        if not self._processor.chat_template:
            raise PromptError("This model has no chat template; send plain text that marks its images.")
        try:
            text: str = self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # whatever the checkpoint's template raises
            raise PromptError(f"The model's chat template refuses these messages: {error}.") from None
        return text

    def _process(self, text: str, images: list[Image.Image]) -> Prompt:
        try:
            features = self._processor(text=[text], images=images, return_tensors="pt")
        except ValueError as error:  # such as an image two hundred times as long as wide
            raise PromptError(f"The model's processor refuses these images: {error}.") from None
        tokens, grids = features["input_ids"][0].tolist(), features["image_grid_thw"].tolist()
        try:
            # Processors of transformers 4 mistake the text <|placeholder|> in a prompt for their own.
            positions_of(tokens, grids, self._image_token, self._processor.image_processor.merge_size)
        except ValueError as error:
            raise PromptError(f"Prompt and images do not match: {error}.") from None
        patches = features["pixel_values"].float().contiguous().numpy()
        return Prompt(text, tokens, Images(patches.tobytes(), patches.shape[1], grids))


def _with_images(messages: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return messages with a part for every image; if no message has one, put them before the last user's text."""
    parted = [
        message | {"content": _parts(message.get("content"))} if message.get("content") is not None else message
        for message in messages
    ]
    named = sum(part.get("type") == "image" for message in parted for part in message.get("content") or [])
    users = [index for index, message in enumerate(parted) if message["role"] == "user"]
    if count and not named and users:
        message = parted[users[-1]]
        parted[users[-1]] = message | {"content": [{"type": "image"}] * count + (message.get("content") or [])}
    return parted


def _parts(content: Any) -> list[dict[str, Any]]:
    """Return a message's content as parts of the types that chat templates accept."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise PromptError('A message\'s content is a text, or a list of parts such as {"type": "image"}.')
    unknown = next((part for part in content if part.get("type") not in ("text", "image", "image_url")), None)
    if unknown is not None:
        raise PromptError(f"A message has a part {json.dumps(unknown)[:80]}; a part's type is text or image.")
    # The tensor `images` has the images, never the message.
    return [part if part["type"] == "text" else {"type": "image"} for part in content]
