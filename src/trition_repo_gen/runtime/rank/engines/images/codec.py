"""Encode prompts with images to tokens and patches, with the model's processor and chat template."""

import math
from collections.abc import Callable
from typing import Any

from PIL import Image

from ....common.image_urls import ImageUrlError
from ....common.protocol import SequenceRequest
from ..messages import read_messages
from ..prompts import Images, Prompt, PromptError
from ..text import TextCodec, make_prompt
from .decode import open_image
from .positions import positions_of


class MultimodalCodec(TextCodec):
    """A `TextCodec` for sequences with images.

    Args:
        processor: a processor of `transformers`, of a family that marks an image by a token of its own.
        max_pixels: largest number of pixels of an image.
        fetch: returns the bytes behind a URL, or raises `ImageUrlError`.
        allow_control_tokens_in_chat: see `TextCodec`.
    """

    takes_images = True

    def __init__(
        self,
        processor: Any,
        max_pixels: int,
        fetch: Callable[[str], bytes],
        *,
        allow_control_tokens_in_chat: bool = False,
    ):
        super().__init__(processor.tokenizer, allow_control_tokens_in_chat=allow_control_tokens_in_chat)
        self._processor = processor
        self._max_pixels = max_pixels
        self._fetch = fetch
        self._image_text: str = processor.image_token
        self._image_token = int(processor.tokenizer.convert_tokens_to_ids(self._image_text))

    def encode(self, sequence: SequenceRequest) -> Prompt:
        """Return the sequence's prompt and its images' patches.

        A plain prompt that marks its images is encoded as it is; one without marks becomes a user's message.

        Raises:
            PromptError: an image cannot be read, or the prompt and the images do not match.
        """
        images = [self._open(image) for image in sequence.images]
        encode: Callable[[str], list[int]] = self._control_tokens.encode
        if sequence.chat:
            messages = read_messages(sequence.prompt, takes_images=True)
            text = self.render(_with_images(messages, len(images)))
        elif images and self._image_text not in sequence.prompt:
            content = [{"type": "text", "text": sequence.prompt}]
            text = self.render(_with_images([{"role": "user", "content": content}], len(images)))
        else:
            text, encode = sequence.prompt, self.encode_plain
        marks = text.count(self._image_text)
        if marks != len(images):
            raise PromptError(
                f"The prompt has {marks} places for images ({self._image_text}), and images has {len(images)}; "
                "send as many of one as of the other."
            )
        shown = self._control_tokens.unmark(text)
        if not images:
            return make_prompt(shown, encode(text))
        features = self._process(images)
        tokens = encode(self._with_places(text, features.grids))
        try:
            positions_of(tokens, features.grids, self._image_token, self._merge_size)
        except ValueError as error:
            raise PromptError(f"Prompt and images do not match: {error}.") from None
        return make_prompt(shown, tokens, features)

    @property
    def _merge_size(self) -> int:
        return int(self._processor.image_processor.merge_size)

    def _open(self, image: bytes | str) -> Image.Image:
        try:
            data = self._fetch(image) if isinstance(image, str) else image
        except ImageUrlError as error:
            raise PromptError(str(error)) from None
        return open_image(data, self._max_pixels)

    def _apply_template(self, messages: list[dict[str, Any]]) -> str:
        text: str = self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text

    @property
    def chat_template(self) -> Any:
        """The model's chat template, if it has one."""
        return self._processor.chat_template

    def _process(self, images: list[Image.Image]) -> Images:
        """Return the images' patches.

        The processor gets no text of a client: those of transformers 4 take `<|placeholder|>` in it for an image.
        """
        places = self._image_text * len(images)
        try:
            features = self._processor(text=[places], images=images, return_tensors="pt")
        except ValueError as error:  # such as an image two hundred times as long as wide
            raise PromptError(f"The model's processor refuses these images: {error}.") from None
        patches = features["pixel_values"].float().contiguous().numpy()
        return Images(patches.tobytes(), patches.shape[1], features["image_grid_thw"].tolist())

    def _with_places(self, text: str, grids: list[list[int]]) -> str:
        """Return the text with each image's token once for each embedding of the image."""
        first, *others = text.split(self._image_text)
        sizes = [math.prod(grid) // self._merge_size**2 for grid in grids]
        return first + "".join(self._image_text * size + part for size, part in zip(sizes, others, strict=True))


def _with_images(messages: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return messages with a part for every image; if no message has one, put them before the last user's text."""
    named = sum(part["type"] == "image" for message in messages for part in message["content"])
    users = [index for index, message in enumerate(messages) if message["role"] == "user"]
    if count and not named and users:
        message = messages[users[-1]]
        messages[users[-1]] = message | {"content": [{"type": "image"}] * count + message["content"]}
    return messages
