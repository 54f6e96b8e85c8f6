import base64
import json
import struct
import zlib

import pytest

from trition_repo_gen.runtime.common.settings import Settings, StreamSettings
from trition_repo_gen.runtime.common.wire import BadRequestError
from trition_repo_gen.runtime.stub.images import ImageLimits, read_elements, read_images

LIMITS = ImageLimits(most=2, most_bytes=1000, most_pixels=10_000, url_patterns=("pictures.example.org",))


def png(width: int = 2, height: int = 3) -> bytes:
    """Return a real image, all black."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    sequences = zlib.compress((b"\0" + bytes(3 * width)) * height)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", sequences) + chunk(b"IEND", b"")


def text(image: bytes) -> str:
    return base64.b64encode(image).decode()


RED, BLUE = png(2, 3), png(3, 2)


@pytest.mark.parametrize(
    "element",
    [
        text(RED),
        text(RED).encode(),
        base64.encodebytes(RED * 1),
        f" {text(RED)}\r\n",
        f"data:image/png;base64,{text(RED)}",
        f"data:image;base64,{text(RED)}",
        f"DATA:image/png;charset=binary;BASE64,{text(RED)}",
        f"data:;base64,{text(RED)}",
        json.dumps([text(RED)]),
    ],
)
def test_one_picture_in_every_form(element: str | bytes) -> None:
    assert read_images(element, LIMITS) == [RED]


def test_several_pictures_keep_their_order() -> None:
    url = "https://pictures.example.org/1.png"
    element = json.dumps([text(BLUE), url])
    assert read_images(element, LIMITS) == [BLUE, url]


def test_a_list_in_generates_body_is_an_element_each() -> None:
    assert read_elements([text(RED), text(BLUE)], LIMITS) == [RED, BLUE]
    assert read_elements([text(RED), ""], LIMITS) == [RED]
    assert read_elements([], LIMITS) == []
    with pytest.raises(BadRequestError, match="images has 3 images for a prompt; this model takes 2"):
        read_elements([text(RED)] * 3, LIMITS)


@pytest.mark.parametrize("element", ["", "  ", "[]"])
def test_no_picture(element: str) -> None:
    assert read_images(element, LIMITS) == []


@pytest.mark.parametrize(
    ("element", "sentence"),
    [
        ("file:///etc/passwd", "'file:///etc/passwd', which this server does not open; send base64"),
        ("FILE:/etc/passwd", "which this server does not open"),
        ("ftp://pictures.example.org/a.png", "which this server does not open"),
        ("/etc/passwd", "'/etc/passwd', which is no base64; .* No file is opened here"),
        ("../../secrets/red.png", "'../../secrets/red.png', which is no base64"),
        ("photo.jpg", "'photo.jpg', which is no base64"),
        ("/etc/hosts12", "data that is no PNG, JPEG, WebP, GIF or BMP image"),
        ("http://elsewhere.example.org/a.png", "fetches no images from elsewhere.example.org:80"),
        ("data:text/html;base64,PGI+", "a data URI of the type 'text/html'; it has to be image/"),
        ("data:image/png,%89PNG", "which this server does not open"),
        ("not base64!", "which is no base64"),
        (text(RED)[:-1], "which is no base64"),
        (text(b"GIF8"), "an image that is broken"),
        (text(b"hello, world"), "data that is no PNG"),
        (text(RED + bytes(1000)), "an image of .* bytes; this model takes at most 1000"),
        (text(png(200, 100)), "an image of 20000 pixels; this model takes at most 10000"),
        (json.dumps([text(RED)] * 3), "3 images for a prompt; this model takes 2"),
        ('["a", 1]', "no JSON list of texts"),
        ('[["a"]]', "no JSON list of texts"),
        ('[""]', "no JSON list of texts"),
        ("[", "no JSON list of texts"),
        ("[" * 100_000, "no JSON list of texts"),
    ],
)
def test_what_is_refused(element: str, sentence: str) -> None:
    with pytest.raises(BadRequestError, match=sentence) as refusal:
        read_images(element, LIMITS)
    assert len(str(refusal.value)) < 300


def test_a_picture_may_be_as_large_as_the_limit() -> None:
    image = RED + bytes(1000 - len(RED))
    assert read_images(text(image), LIMITS) == [image]


def test_the_limits_are_the_settings() -> None:
    settings = Settings(
        checkpoint="/c", multimodal=True, max_image_mib=0.5, max_images=3, allow_image_urls="a.org, *.B.org"
    )
    assert ImageLimits.of(settings) == ImageLimits(3, 524288, 33_554_432, ("a.org", "*.b.org"))
    assert ImageLimits.of(StreamSettings(stream_of="m", multimodal=True)) == ImageLimits(8, 2**24, 33_554_432, ())
    assert ImageLimits.of(Settings(checkpoint="/c")) is None
