"""What test_parts.py runs in the ranks' environment; prints one JSON document.

Usage: python drivers.py PACKAGE_FOLDER NAME [ARGUMENT ...]
"""

import io
import json
import struct
import sys
import zlib
from types import SimpleNamespace
from typing import Any


def positions() -> dict[str, Any]:
    """Compare positions with those of Hugging Face's Qwen2.5-VL."""
    import torch
    from runtime.rank.engines.images.positions import positions_of
    from transformers import Qwen2_5_VLConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

    image, start = 90, 91
    config = Qwen2_5_VLConfig(image_token_id=image, vision_start_token_id=start)
    theirs = SimpleNamespace(config=config)
    theirs.get_vision_position_ids = Qwen2_5_VLModel.get_vision_position_ids.__get__(theirs)

    def prompt(*grids: list[int]) -> list[int]:
        tokens = [1, 2, 3]
        for time, height, width in grids:
            tokens += [start, *[image] * (time * height * width // 4), 5, 6]
        return [*tokens, 7]

    cases = [[], [[1, 4, 6]], [[1, 8, 2], [1, 2, 2]], [[1, 6, 6], [1, 4, 10], [1, 2, 4]]]
    equal = []
    for grids in cases:
        tokens = prompt(*grids)
        kinds = torch.tensor([[int(token == image) for token in tokens]])
        expected, delta = Qwen2_5_VLModel.get_rope_index(
            theirs, torch.tensor([tokens]), kinds, torch.tensor(grids) if grids else None
        )
        found, following = positions_of(tokens, grids, image, 2)
        equal.append(torch.equal(found, expected[:, 0]) and following == len(tokens) + int(delta))

    def refused(tokens: list[int], grids: list[list[int]]) -> str | None:
        try:
            positions_of(tokens, grids, image, 2)
        except ValueError as error:
            return str(error)
        return None

    return {
        "equal": equal,
        "refused": [
            refused(prompt(), [[1, 4, 4]]),
            refused(prompt([1, 4, 4]), []),
            refused(prompt([1, 4, 4]), [[1, 4, 6]]),
        ],
    }


def cache() -> dict[str, Any]:
    """Decode three sequences with the cache, packed in different orders, and each with dense attention."""
    import torch
    from runtime.rank.engines.images.attention import Batch, CachedAttention, Span
    from runtime.rank.engines.images.kv_cache import BLOCK_SIZE, KVCache
    from torch.nn.functional import scaled_dot_product_attention

    torch.manual_seed(0)
    heads, groups, size = 4, 2, 8
    lengths = {1: 200, 2: 5, 3: BLOCK_SIZE}  # the first is too long to be padded to with the others
    q, k, v = (
        {sequence: torch.randn(length + 2, count, size) for sequence, length in lengths.items()}
        for count in (heads, groups, groups)
    )
    memory = KVCache(1, groups, size, 8 * 2 * BLOCK_SIZE * groups * size * 4, torch.float32, torch.device("cpu"))
    attention = CachedAttention(0, memory, size**-0.5)
    for sequence, length in lengths.items():
        memory.take(sequence, length + 2)
    full = memory.usage

    def step(*spans: Span) -> dict[Span, Any]:
        attention.batch = Batch(spans, memory, torch.device("cpu"))
        packed = [torch.cat([each[s.request_id][s.start : s.stop] for s in spans])[:, None] for each in (q, k, v)]
        parts = attention(*packed).squeeze(1).split([len(span) for span in spans])
        return dict(zip(spans, parts, strict=True))

    def dense(span: Span) -> Any:
        sequence = span.request_id
        queries, keys, values = (each[sequence][: span.stop].transpose(0, 1)[None] for each in (q, k, v))
        out = scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
        return out[0].transpose(0, 1).flatten(1)[span.start :]

    outputs = step(Span(1, 0, 200))
    outputs |= step(Span(1, 200, 201), Span(2, 0, 5))  # a prompt joins while another sequence decodes
    outputs |= step(Span(2, 5, 6), Span(3, 0, BLOCK_SIZE), Span(1, 201, 202))
    outputs |= step(Span(3, BLOCK_SIZE, BLOCK_SIZE + 1), Span(2, 6, 7))
    distance = max(float((out - dense(span)).abs().max()) for span, out in outputs.items())
    memory.give_back(1)
    fits = [memory.fits(5 * BLOCK_SIZE), memory.fits(5 * BLOCK_SIZE + 1)]
    for sequence in (2, 3):
        memory.give_back(sequence)
    return {"distance": distance, "usage": full, "fits": fits, "empty": memory.usage, "room": memory.room // BLOCK_SIZE}


def images() -> dict[str, Any]:
    """Open good, odd and hostile images."""
    from PIL import Image
    from runtime.rank.engines.images.decode import open_image
    from runtime.rank.engines.text import PromptError

    def encoded(image: Any, kind: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    red = Image.new("RGB", (30, 20), "red")
    sideways = Image.Exif()
    sideways[0x0112] = 6  # orientation: turn by 90 degrees
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(30_001 * 10))) + chunk(b"IEND", b"")
    half = encoded(Image.effect_noise((64, 64), 50), "PNG")
    progressive = encoded(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG", progressive=True)
    last_scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    endless = progressive[:-2] + last_scan * 200 + progressive[-2:]
    several = encoded(red, "MPO", save_all=True, append_images=[red])
    others = several[2 : several.index(b"MPF\0") - 4 + 2 + int.from_bytes(several[several.index(b"MPF\0") - 2 :][:2])]
    mixed = encoded(red, "JPEG") + bytes(range(256)) + b"\xff\xda" * 200  # as a photograph that moves

    def refusal(data: bytes) -> str:
        try:
            open_image(data, 1_000_000)
        except PromptError as error:
            return str(error)
        return "opened"

    transparent = open_image(encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "PNG"), 100)
    turned = open_image(encoded(red, "JPEG", exif=sideways), 1000)
    kinds = [open_image(encoded(red, kind), 1000) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP")]
    return {
        "kinds": [(image.mode, image.size) for image in kinds],
        "transparent": transparent.getpixel((0, 0)),
        "turned": turned.size,
        "progressive": refusal(progressive),
        "endless": [refusal(endless), refusal(endless[:2] + others + endless[2:])],
        "comments": refusal(progressive[:2] + b"\xff\xfe\0\2" * 2000 + progressive[2:]),
        "trailer": refusal(mixed),
        "refused": [refusal(data) for data in (bomb, half[: len(half) // 2], b"", b"%PDF-1.7", b"\x00" * 1000)],
    }


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    print(json.dumps(globals()[sys.argv[2]](*sys.argv[3:])))
