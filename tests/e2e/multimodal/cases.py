"""Conversations with images that all models are asked, and what asking takes."""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tests.e2e.serving import Asker, Reply, Serving, assert_same_answers


def random_image(seed: int, width: int, height: int, kind: str = "PNG") -> str:
    """Return an image of random colours in a coarse grid, encoded, as base64."""
    grid = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC).save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True)
class Case:
    """A conversation whose parts of the type image take `images` in order."""

    messages: list[dict[str, Any]]
    images: list[str]

    @property
    def prompt(self) -> str:
        """The element of the tensor `prompts`, with `apply_chat_template`."""
        return json.dumps(self.messages)

    @property
    def element(self) -> str:
        """The element of the tensor `images`."""
        return self.images[0] if len(self.images) == 1 else json.dumps(self.images) if self.images else ""

    @property
    def chat(self) -> list[dict[str, Any]]:
        """The messages of an OpenAI chat: its parts of the type image_url hold the images."""
        urls = iter([{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{i}"}} for i in self.images])
        return [
            message
            if isinstance(message["content"], str)
            else {
                **message,
                "content": [next(urls) if part["type"] == "image" else part for part in message["content"]],
            }
            for message in self.messages
        ]


def user(*parts: str | None) -> dict[str, Any]:
    """A user's message; None stands for an image."""
    return {
        "role": "user",
        "content": [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts],
    }


NEW_TOKENS = 24
ONE_IMAGE = [
    Case([user(None, "What is in this image?")], [random_image(1, 60, 60)]),
    Case([user(None, "What is in this image?")], [random_image(2, 200, 150)]),
    Case([user("Look:", None, "Was ist das? 🖼")], [random_image(3, 90, 300)]),
    Case([user(None, "Describe the picture in a few words.")], [random_image(4, 640, 480)]),
]
CASES = [
    *ONE_IMAGE,
    Case([user(None, None, "Are they alike?")], [random_image(5, 224, 112), random_image(6, 70, 130)]),
    Case([user("1:", None, "2:", None, "3:", None)], [random_image(seed, 40 * seed, 84) for seed in (1, 2, 3)]),
    Case([user("How are you?")], []),
    Case(
        [
            {"role": "system", "content": "You see well."},
            user(None, "What is it?"),
            {"role": "assistant", "content": "A dog."},
            user("And this?", None),
        ],
        [random_image(8, 112, 112), random_image(9, 333, 150)],
    ),
]


def ask(asker: Asker, case: Case, **values: Any) -> Reply:
    """Ask one case."""
    return asker(case.prompt, images=case.element, apply_chat_template=True, **{"max_length": NEW_TOKENS, **values})


def ask_together(asker: Asker, cases: list[Case], **values: Any) -> Reply:
    """Ask several cases in one request."""
    return asker(
        [case.prompt for case in cases],
        images=[case.element for case in cases],
        apply_chat_template=True,
        **{"max_length": NEW_TOKENS, **values},
    )


def assert_parity(serving: Serving, cases: list[Case], expected: list[dict[str, Any]]) -> None:
    """Ask all cases at once, one request each, so that prompts join while others run; compare with Hugging Face's."""
    with ThreadPoolExecutor(len(cases)) as pool:
        replies = list(pool.map(lambda case: ask(serving.ask, case, compute_logprob=True), cases))
    assert_same_answers(replies, expected)
    assert [reply.prompt_tokens[0] for reply in replies] == [reference["prompt_tokens"] for reference in expected]
