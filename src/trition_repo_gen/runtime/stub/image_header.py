"""Reads the size of an encoded image from its header, without decoding it.

PNG (W3C), JPEG (ITU T.81), GIF89a, WebP (RFC 9649) and BMP. Standard library only.
"""

import struct
from collections.abc import Callable

FORMATS = "PNG, JPEG, WebP, GIF or BMP"


class UnknownImageError(ValueError):
    """The bytes are not an image of a known format; the message says what they are, as part of a sentence."""


def pixels(data: bytes) -> int:
    """Return width × height of an encoded image.

    Raises:
        UnknownImageError: the format is unknown, or the data ends within the header.
    """
    for magic, size in _READERS.items():
        if data.startswith(magic):
            try:
                width, height = size(data)
            except (struct.error, IndexError, ValueError):
                break
            if width < 1 or height < 1:
                break
            return width * height
    else:
        raise UnknownImageError(f"data that is no {FORMATS} image")
    raise UnknownImageError("an image that is broken: its header does not say its size")


def _png(data: bytes) -> tuple[int, int]:
    length, kind, width, height = struct.unpack_from(">I4sII", data, 8)
    if length != 13 or kind != b"IHDR":
        raise ValueError(kind)
    return width, height


def _gif(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _bmp(data: bytes) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", data, 14)
    if header == 12:  # OS/2
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return width, abs(height)  # negative: stored from top to bottom


def _jpeg(data: bytes) -> tuple[int, int]:
    position = 2
    while True:
        if data[position] != 0xFF:
            raise ValueError(position)
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in (0x01, *range(0xD0, 0xD8)):  # without a length
            position += 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = struct.unpack_from(">HH", data, position + 5)
            return width, height
        elif marker in (0xD9, 0xDA):  # end of image, start of scan: no frame before it
            raise ValueError(marker)
        else:
            (length,) = struct.unpack_from(">H", data, position + 2)
            position += 2 + max(length, 2)


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[8:16]
    if kind == b"WEBPVP8X" and len(data) >= 30:
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"WEBPVP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"WEBPVP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError(kind)


_READERS: dict[bytes, Callable[[bytes], tuple[int, int]]] = {
    b"\x89PNG\r\n\x1a\n": _png,
    b"\xff\xd8\xff": _jpeg,
    b"RIFF": _webp,
    b"GIF8": _gif,
    b"BM": _bmp,
}
