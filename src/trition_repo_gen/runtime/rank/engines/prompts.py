"""Encoded prompts."""

from dataclasses import dataclass

from ...common.protocol import register


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
