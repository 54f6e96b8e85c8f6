import base64

import pytest

from trition_repo_gen.runtime.stub.image_header import UnknownImageError, pixels

# 7 × 5 pixels each, written by Pillow; the JPEG ones end with their frame header.
SAMPLES = {
    "png": ("iVBORw0KGgoAAAANSUhEUgAAAAcAAAAFCAIAAAAG+GGPAAAAFElEQVR4nGM8ISfHgAGYMIWoIgoAcO4BDp5SBC0AAAAASUVORK5CYII="),
    "jpeg": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAx"
        "NDQ0Hyc5PTgyPC4zNDL/2wBDAQkJCQwLDBgNDRgyIRwhMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIy"
        "MjIyMjIyMjL/wAARCAAFAAcDASIAAhEBAxEB"
    ),
    "gif": "R0lGODdhBwAFAIEAAMgeHgAAAAAAAAAAACwAAAAABwAFAAAIDAABCBxIsKDBgwcDAgA7",
    "bmp": (
        "Qk2uAAAAAAAAADYAAAAoAAAABwAAAAUAAAABABgAAAAAAHgAAADEDgAAxA4AAAAAAAAAAAAAHh7IHh7IHh7IHh7IHh7IHh7IHh7I"
        "AAAAHh7IHh7IHh7IHh7IHh7IHh7IHh7IAAAAHh7IHh7IHh7IHh7IHh7IHh7IHh7IAAAAHh7IHh7IHh7IHh7IHh7IHh7IHh7IAAAA"
        "Hh7IHh7IHh7IHh7IHh7IHh7IHh7IAAAA"
    ),
    "webp": "UklGRjoAAABXRUJQVlA4IC4AAACwAQCdASoHAAUAAUAmJaACdLoABDAAAP7x3I/4DdfFtMv/vYL/3YL/3YL/WwAA",
    "webp_lossless": "UklGRh4AAABXRUJQVlA4TBEAAAAvBgABAAdQjyLXo/+BiOh/AAA=",
    "jpeg_progressive": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAx"
        "NDQ0Hyc5PTgyPC4zNDL/2wBDAQkJCQwLDBgNDRgyIRwhMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIy"
        "MjIyMjIyMjL/wgARCAAFAAcDASIAAhEBAxEB"
    ),
    "webp_extended": (
        "UklGRl4AAABXRUJQVlA4WAoAAAAIAAAABgAABAAAVlA4IC4AAACwAQCdASoHAAUAAUAmJaACdLoABDAAAP7x3I/4DdfFtMv/vYL/"
        "3YL/3YL/WwAARVhJRgoAAABNTQAqAAAACAAA"
    ),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_the_size_stands_in_the_header(name: str) -> None:
    assert pixels(base64.b64decode(SAMPLES[name])) == 35


@pytest.mark.parametrize("name", SAMPLES)
def test_a_header_that_is_cut_off(name: str) -> None:
    data = base64.b64decode(SAMPLES[name])
    for length in range(4, 10):
        with pytest.raises(UnknownImageError):
            pixels(data[:length])


@pytest.mark.parametrize(
    "data", [b"", b"%PDF-1.7", b"<svg/>", b"MM\0*\0\0\0\x08", b"RIFF\0\0\0\0WAVEfmt ", b"\xff\xd8\xff"]
)
def test_other_data(data: bytes) -> None:
    with pytest.raises(UnknownImageError):
        pixels(data)
