"""Encoded pictures become PIL images, whatever a client sent."""

import io
import warnings

from PIL import Image, ImageOps

from ..ranks.text import PromptError

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_SCAN = b"\xff\xda"
_MOST_SCANS = 100
"""Of a progressive JPEG: encoders make about ten, and each is decoded over the whole picture, however short it is."""


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """Decode a picture, upright and in RGB; transparent parts are white.

    Its size is read from the header, so that a picture that would unpack to gigabytes costs nothing.

    Args:
        data: the file's bytes: PNG, JPEG, WebP, GIF (its first frame) or BMP.
        max_pixels: width times height that is not refused.

    Raises:
        PromptError: it is none of these, broken, or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.format == "JPEG" and data.count(_SCAN) > _MOST_SCANS:
            raise ValueError(f"more than {_MOST_SCANS} scans")
        width, height = image.size
        if width * height <= max_pixels:
            return _in_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # whatever a broken file makes PIL's parsers raise
        raise PromptError(
            f"images has a picture that cannot be read ({_reason(error)}); send PNG, JPEG or WebP."
        ) from None
    raise PromptError(
        f"images has a picture of {width} x {height} pixels; this server takes {max_pixels} pixels at most."
    )


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        image.load()
        return image
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    with_alpha = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(with_alpha)
    return white.convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "no known format"
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels"
    return str(error) or type(error).__name__
