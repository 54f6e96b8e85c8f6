"""Encodes images for the wire: base64 of an image file, with a `data:` prefix.

Files and URLs are read here, by the client: servers open no files, and fetch only URLs that their operator allows.
Pillow images are accepted without importing Pillow.
"""

import base64
import http.client
import io
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trition_repo_gen.errors import QueryError
from trition_repo_gen.paths import expanded

from . import proxies
from .text import utf8
from .triton import column

Image = Any
"""An image: Pillow's `Image`, a path, an http(s) URL, the bytes of a file, base64 or a `data:` URI."""
Images = Sequence[Image | Sequence[Image] | None]
"""For each prompt an image, a list of images, or None."""

_PREFIX = "data:image;base64,"
_SECONDS = 30.0
_MOST_BYTES = 256 * 2**20
_SHORTEST_BASE64 = 64


def tensor(images: Any, sequences: int) -> NDArray[np.object_]:
    """Return the tensor `images`, BYTES (sequences, 1).

    Raises:
        QueryError: the number of elements is not that of sequences, or an image cannot be read.
    """
    if isinstance(images, str | bytes | Path) or not isinstance(images, Sequence):
        raise QueryError("images has to be a list: for each prompt its image, a list of its images, or None.")
    if len(images) != sequences:
        raise QueryError(f"images has {len(images)} elements for {sequences} prompts; give one per prompt.")
    return column([utf8("An image", _element(image)) for image in images], np.object_)


def encode(image: Image) -> str:
    """Return an image as the wire encodes it.

    Raises:
        QueryError: it cannot be read, or is not an image.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return _PREFIX + base64.b64encode(image).decode()
    if isinstance(image, Path):
        return encode(_read(image))
    if isinstance(image, str):
        return _encode_text(image)
    if hasattr(image, "save") and hasattr(image, "convert"):
        return encode(_as_png(image))
    raise QueryError(f"images has a {type(image).__name__}; give a Pillow image, a path, a URL or the bytes of a file.")


def _element(image: Any) -> str:
    if image is None:
        return ""
    if isinstance(image, list | tuple):
        return json.dumps([encode(each) for each in image]) if image else ""
    return encode(image)


def _encode_text(text: str) -> str:
    if text[:5].lower() == "data:":
        return text
    if text[:8].lower().startswith(("http://", "https://")):
        return encode(_fetch(text))
    if _is_base64(text):
        return text
    return encode(_read(Path(text)))


def _is_base64(text: str) -> bool:
    """Whether a text is an encoded image; a shorter text is taken for a path."""
    if len(text) < _SHORTEST_BASE64:
        return False
    try:
        base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        return False
    return True


def _read(path: Path) -> bytes:
    try:
        return expanded(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise QueryError(f"The image {str(path)[:200]!r} cannot be read ({reason}).") from None


def _fetch(url: str) -> bytes:
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "trgen", "Accept": "image/*"})
        with proxies.opener().open(request, timeout=_SECONDS) as response:
            data: bytes = response.read(_MOST_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise QueryError(f"The image {url!r} cannot be fetched: its host answered {error.code}.") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise QueryError(f"The image {url!r} cannot be fetched ({getattr(error, 'reason', error)}).") from None
    if len(data) > _MOST_BYTES:
        raise QueryError(f"The image {url!r} has more than {_MOST_BYTES} bytes.")
    return data


def _as_png(image: Any) -> bytes:
    buffer = io.BytesIO()
    plain = image if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else image.convert("RGB")
    plain.save(buffer, "PNG")
    return buffer.getvalue()
