"""Reads the images of a prompt from an element of the tensor `images`; opens no file and contacts no host."""

import base64
import binascii
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from ..common import image_urls
from ..common.settings import Settings, StreamSettings
from ..common.wire import BadRequestError
from .image_header import UnknownImageError, pixels

# RFC 2397, of which only base64 is taken. Export-Deploy's client writes `data:image;base64,`.
_DATA_URI = re.compile(rb"data:(?P<type>[^,;]*)(?:;[^,;]*)*;base64,", re.IGNORECASE)
_IMAGE_TYPES = (b"", b"image", b"application/octet-stream")
_URL = re.compile(rb"https?://", re.IGNORECASE)
_BLANK = b" \t\r\n"
_FORMS = 'base64, a "data:image/…;base64," URI, or a JSON list of these'


@dataclass(frozen=True)
class ImageLimits:
    """Limits on the images of a multimodal model."""

    most: int
    """Number of images per prompt."""
    most_bytes: int
    """Bytes of one encoded image."""
    most_pixels: int
    """Pixels of one image."""
    url_patterns: tuple[str, ...]
    """See `image_urls.patterns`."""

    @classmethod
    def of(cls, settings: Settings | StreamSettings) -> Self | None:
        """Return the limits of a model, None for a model without images."""
        if not settings.multimodal:
            return None
        return cls(
            most=settings.max_images,
            most_bytes=int(settings.max_image_mib * 2**20),
            most_pixels=settings.max_image_pixels,
            url_patterns=image_urls.patterns(settings.allow_image_urls),
        )


def read_elements(elements: Iterable[Any], limits: ImageLimits) -> list[bytes | str]:
    """Return the images of one prompt, in order, from all of its elements; see `read_images`."""
    images = [image for element in elements for image in read_images(element, limits)]
    if len(images) > limits.most:
        raise _too_many(len(images), limits)
    return images


def read_images(element: Any, limits: ImageLimits) -> list[bytes | str]:
    """Return the images of one prompt, in order: encoded ones as bytes, URLs that may be fetched as text.

    Args:
        element: an element of `images`: base64, a data URI, a URL, or a JSON list of these. Empty means no image.
        limits: the limits of the model.

    Raises:
        BadRequestError: the element is none of these, an image exceeds a limit or has an unknown format, or a URL is
            not allowed.
    """
    data = element.encode() if isinstance(element, str) else bytes(element)
    data = data.strip(_BLANK)
    if not data:
        return []
    if not data.startswith(b"["):
        return [_read(data, limits)]
    try:
        texts = json.loads(data)
    except (ValueError, RecursionError):
        texts = None
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise BadRequestError(f"images has a text that is no JSON list of texts; send {_FORMS}.")
    if len(texts) > limits.most:
        raise _too_many(len(texts), limits)
    return [_read(text.encode(errors="replace").strip(_BLANK), limits) for text in texts]


def _too_many(count: int, limits: ImageLimits) -> BadRequestError:
    return BadRequestError(f"images has {count} images for a prompt; this model takes {limits.most}.")


def _read(data: bytes, limits: ImageLimits) -> bytes | str:
    if _URL.match(data):
        try:
            return image_urls.check(data.decode(errors="replace"), limits.url_patterns).url
        except image_urls.ImageUrlError as error:
            raise BadRequestError(str(error)) from None
    if match := _DATA_URI.match(data):
        kind = match["type"].lower()
        if kind not in _IMAGE_TYPES and not kind.startswith(b"image/"):
            raise BadRequestError(f"images has a data URI of the type {_shown(kind)}; it has to be image/….")
        data = data[match.end() :]
    elif b":" in data[:200]:
        raise BadRequestError(f"images has {_shown(data)}, which this server does not open; send {_FORMS}.")
    image = _decode(data, limits)
    try:
        size = pixels(image)
    except UnknownImageError as error:
        raise BadRequestError(f"images has {error}.") from None
    if size > limits.most_pixels:
        raise BadRequestError(
            f"images has an image of {size} pixels; this model takes at most {limits.most_pixels}: send it smaller."
        )
    return image


def _decode(data: bytes, limits: ImageLimits) -> bytes:
    data = data.translate(None, _BLANK)
    most = limits.most_bytes
    if len(data) // 4 * 3 - 2 > most:
        raise BadRequestError(
            f"images has an image of {len(data) // 4 * 3} bytes; this model takes at most {most}: send it smaller."
        )
    try:
        image = base64.b64decode(data, validate=True)
    except binascii.Error:
        raise BadRequestError(
            f"images has {_shown(data)}, which is no base64; send {_FORMS}. No file is opened here."
        ) from None
    if len(image) > most:
        raise BadRequestError(
            f"images has an image of {len(image)} bytes; this model takes at most {most}: send it smaller."
        )
    return image


def _shown(data: bytes) -> str:
    text = data[:60].decode(errors="replace")
    return repr(text if len(data) <= 60 else f"{text}…")
