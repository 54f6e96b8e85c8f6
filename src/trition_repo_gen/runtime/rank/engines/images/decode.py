"""Decode images that clients send, which may be anything."""

import io
import re
import warnings

from PIL import Image, ImageOps

from ..text import PromptError

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_JPEG, _SCAN, _END = b"\xff\xd8", b"\xda", b"\xd9"
_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd8\xff])")
"""Marker of a segment with a length, or of the end; no data and no marker without a length."""
_MOST_SCANS, _MOST_SEGMENTS = 100, 1000
"""Of a JPEG. A progressive one has about ten scans; decoding each costs a pass over the image, however short it is."""


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """Decode an image, upright and in RGB; transparent parts are white.

    Its size is read from the header first, so that an image that would unpack to gigabytes costs nothing.

    Args:
        data: the file's bytes: PNG, JPEG, WebP, GIF (its first frame) or BMP.
        max_pixels: largest width times height.

    Raises:
        PromptError: it is none of these, broken, or too large.
    """
    try:
        if data.startswith(_JPEG):
            _check_scans(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
        width, height = image.size
        if width * height <= max_pixels:
            return _in_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # whatever a broken file makes PIL's parsers raise
        raise PromptError(
            f"images has an image that cannot be read ({_reason(error)}); send PNG, JPEG or WebP."
        ) from None
    raise PromptError(
        f"images has an image of {width} x {height} pixels; this server takes {max_pixels} pixels at most."
    )


def _check_scans(jpeg: bytes) -> None:
    """Raise where a JPEG (ITU-T T.81, annex B) has too many scans; bytes after its end do not count."""
    at = scans = segments = 0
    while (found := _MARKER.search(jpeg, at)) is not None and found[1] != _END:
        segments += 1
        scans += found[1] == _SCAN
        if scans > _MOST_SCANS or segments > _MOST_SEGMENTS:
            raise ValueError(f"more than {_MOST_SCANS} scans or {_MOST_SEGMENTS} segments")
        at = found.end() + int.from_bytes(jpeg[found.end() : found.end() + 2])


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
