"""From an element of `images` to a prompt's encoded images, without opening a file or asking another host."""

import base64
import binascii
import json
import re
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
    """What a multimodal model takes."""

    most: int
    """Images per prompt."""
    most_bytes: int
    """Of one encoded image."""
    most_pixels: int
    """Of one image."""
    url_patterns: tuple[str, ...]
    """See `image_urls.patterns`."""

    @classmethod
    def of(cls, settings: Settings | StreamSettings) -> Self | None:
        """Return a model's limits, None where it takes no images."""
        if not settings.multimodal:
            return None
        return cls(
            most=settings.max_images,
            most_bytes=int(settings.max_image_mib * 2**20),
            most_pixels=settings.max_image_pixels,
            url_patterns=image_urls.patterns(settings.allow_image_urls),
        )


def read_images(element: Any, limits: ImageLimits) -> list[bytes | str]:
    """Return the images of one prompt, in order: encoded ones as bytes, URLs that may be fetched as text.

    Args:
        element: of `images`: base64, a data URI, a URL, or a JSON list of such texts. An empty one is no image.
        limits: what the model takes.

    Raises:
        BadRequestError: it is none of these, a image is above a limit or of no known format, or a URL is not allowed.
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
        raise BadRequestError(f"images has {len(texts)} images for a prompt; this model takes {limits.most}.")
    return [_read(text.encode(errors="replace").strip(_BLANK), limits) for text in texts]


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
            f"images has a image of {size} pixels; this model takes at most {limits.most_pixels}: send it smaller."
        )
    return image


def _decode(data: bytes, limits: ImageLimits) -> bytes:
    data = data.translate(None, _BLANK)
    most = limits.most_bytes
    if len(data) // 4 * 3 - 2 > most:
        raise BadRequestError(
            f"images has a image of {len(data) // 4 * 3} bytes; this model takes at most {most}: send it smaller."
        )
    try:
        image = base64.b64decode(data, validate=True)
    except binascii.Error:
        raise BadRequestError(
            f"images has {_shown(data)}, which is no base64; send {_FORMS}. No file is opened here."
        ) from None
    if len(image) > most:
        raise BadRequestError(
            f"images has a image of {len(image)} bytes; this model takes at most {most}: send it smaller."
        )
    return image


def _shown(data: bytes) -> str:
    text = data[:60].decode(errors="replace")
    return repr(text if len(data) <= 60 else f"{text}…")
