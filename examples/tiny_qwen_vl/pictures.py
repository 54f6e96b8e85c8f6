"""Synthetic pictures of one shape in one colour, and questions about them with their answers.

    python examples/tiny_qwen_vl/pictures.py FOLDER [--count N] [--seed N]      writes FOLDER/0-red-circle.png and so on

Needs Pillow and numpy.
"""

import argparse
import math
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLORS = {
    "red": (214, 30, 36),
    "green": (36, 150, 60),
    "blue": (36, 70, 200),
    "yellow": (240, 205, 30),
    "purple": (130, 50, 160),
    "black": (20, 20, 24),
}
SHAPES = ("circle", "square", "triangle", "cross")
QUESTIONS = {
    "What is in this image?": "a {color} {shape}",
    "What is in this picture?": "a {color} {shape}",
    "What do you see?": "a {color} {shape}",
    "Describe the image.": "a {color} {shape}",
    "What color is it?": "{color}",
    "Which color is the shape?": "{color}",
    "What shape is it?": "{shape}",
    "Which shape do you see?": "{shape}",
}
SIDES = (70, 120)  # pixels
DIFFERENT = 110  # the least distance of background and shape, in RGB


@dataclass(frozen=True)
class Picture:
    """A picture and what is in it."""

    image: Image.Image
    color: str
    shape: str

    def answer(self, question: str) -> str:
        """The answer to a question of `QUESTIONS`."""
        return QUESTIONS[question].format(color=self.color, shape=self.shape)


def draw(rng: random.Random) -> Picture:
    """A shape of any size, place and slight turn, on a pale background that it stands out from, with noise."""
    color, shape = rng.choice(list(COLORS)), rng.choice(SHAPES)
    size = rng.randint(*SIDES), rng.randint(*SIDES)
    ink = tuple(channel + rng.randint(-14, 14) for channel in COLORS[color])
    while math.dist(paper := _paper(rng), ink) < DIFFERENT:
        pass
    scale = 4  # drawn larger and then reduced, which smooths the edges
    image = Image.new("RGB", (size[0] * scale, size[1] * scale), paper)
    radius = rng.uniform(0.28, 0.45) * min(size)
    center = [rng.uniform(radius + 2, side - radius - 2) for side in size]
    points = [
        tuple((c + radius * p) * scale for c, p in zip(center, point, strict=True))
        for point in _outline(shape, rng.uniform(-0.1, 0.1))
    ]
    ImageDraw.Draw(image).polygon(points, fill=ink)
    pixels = np.asarray(image.resize(size, Image.Resampling.BOX), dtype=np.float32)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(0, 5), pixels.shape)
    return Picture(Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)), color, shape)


def _paper(rng: random.Random) -> tuple[int, ...]:
    """A background: some pale colour."""
    grey = rng.randint(165, 235)
    return tuple(grey + rng.randint(-20, 20) for _ in range(3))


def _outline(shape: str, angle: float) -> list[tuple[float, float]]:
    """The corners of a shape around (0, 0) with radius 1, turned by ``angle`` radians."""
    arm = 0.3
    corners = {
        "circle": [(math.cos(i * math.pi / 32), math.sin(i * math.pi / 32)) for i in range(64)],
        "square": [(x * math.sqrt(0.5), y * math.sqrt(0.5)) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))],
        "triangle": [(math.sin(i * math.tau / 3), -math.cos(i * math.tau / 3)) for i in range(3)],
        "cross": [
            *((-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm)),
            *((arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm)),
        ],
    }[shape]
    cos, sin = math.cos(angle), math.sin(angle)
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in corners]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for index in range(arguments.count):
        picture = draw(rng)
        path = arguments.folder / f"{index}-{picture.color}-{picture.shape}.png"
        picture.image.save(path)
        print(path)


if __name__ == "__main__":
    main()
