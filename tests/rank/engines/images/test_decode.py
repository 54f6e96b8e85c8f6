"""Images of all formats become upright RGB; hostile and broken ones are refused in a sentence."""

import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from trition_repo_gen.runtime.rank.engines.images.decode import open_image
from trition_repo_gen.runtime.rank.engines.text import PromptError

MAX_PIXELS = 1_000_000
RED = Image.new("RGB", (30, 20), "red")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the image as a file of a format."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def refusal(data: bytes) -> str:
    """Return the sentence that a file is refused with."""
    with pytest.raises(PromptError) as error:
        open_image(data, MAX_PIXELS)
    return str(error.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_every_format_becomes_rgb(kind: str) -> None:
    image = open_image(encoded(RED, kind), 1000)
    assert (image.mode, image.size) == ("RGB", (30, 20))


def test_what_is_transparent_becomes_white() -> None:
    transparent = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert open_image(encoded(transparent, "PNG"), 100).getpixel((0, 0)) == (255, 255, 255)


def test_an_image_that_lies_on_its_side_is_turned_upright() -> None:
    orientation = Image.Exif()
    orientation[0x0112] = 6  # turn by 90 degrees
    assert open_image(encoded(RED, "JPEG", exif=orientation), 1000).size == (20, 30)


@pytest.fixture
def progressive() -> bytes:
    return encoded(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG", progressive=True)


def test_a_progressive_image_is_opened(progressive: bytes) -> None:
    open_image(progressive, MAX_PIXELS)


def test_what_follows_an_image_does_not_count() -> None:
    """A photograph that moves has a film behind it."""
    open_image(encoded(RED, "JPEG") + bytes(range(256)) + b"\xff\xda" * 200, MAX_PIXELS)


def test_an_image_that_takes_hours_to_decode_is_refused(progressive: bytes) -> None:
    last_scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    scans = progressive[:-2] + last_scan * 200 + progressive[-2:]
    several = encoded(RED, "MPO", save_all=True, append_images=[RED])
    # The segment that lists the further images of a file.
    others = several[2 : several.index(b"MPF\0") - 4 + 2 + int.from_bytes(several[several.index(b"MPF\0") - 2 :][:2])]
    comments = progressive[:2] + b"\xff\xfe\0\2" * 2000 + progressive[2:]
    for data in (scans, scans[:2] + others + scans[2:], comments):
        assert "more than 100 scans or 1000 segments" in refusal(data)


def test_an_image_of_too_many_pixels_is_refused_without_decoding_it() -> None:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(30_001 * 10)))
    bomb = b"\x89PNG\r\n\x1a\n" + header + pixels + png_chunk(b"IEND", b"")
    assert refusal(bomb) == ("images has an image of 10000 x 10000 pixels; this server takes 1000000 pixels at most.")


def test_half_an_image_is_refused() -> None:
    data = encoded(Image.effect_noise((64, 64), 50), "PNG")
    assert refusal(data[: len(data) // 2]).startswith("images has an image that cannot be read (")


@pytest.mark.parametrize("data", [b"", b"%PDF-1.7", b"\x00" * 1000])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    assert refusal(data) == "images has an image that cannot be read (no known format); send PNG, JPEG or WebP."
