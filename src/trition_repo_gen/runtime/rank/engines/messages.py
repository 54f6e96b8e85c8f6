"""Chat messages as chat templates take them, whichever way they came: by REST or by Triton's `apply_chat_template`."""

import json
from typing import Any

from .prompts import PromptError

_IMAGE_TYPES = ("image", "image_url")


def read_messages(prompt: str, *, takes_images: bool) -> list[dict[str, Any]]:
    """Return a prompt's chat messages.

    A content of null is an empty text. OpenAI's `developer` is `system`. A model that takes images gets every content
    as a list of parts of the types `text` and `image`; a language model gets a text, with each part on its own lines.
    Other entries of a message go to the template as they are.

    Args:
        prompt: a JSON list of messages.
        takes_images: whether the model does.

    Raises:
        PromptError: it is something else, or has a part that the model does not take.
    """
    try:
        messages = json.loads(prompt)
    except (ValueError, RecursionError) as error:
        raise PromptError(
            f"With apply_chat_template a prompt is a JSON list of messages; this is not JSON: {error}."
        ) from None
    if not isinstance(messages, list) or not messages or not all(_is_message(message) for message in messages):
        raise PromptError(
            'With apply_chat_template a prompt is a JSON list of messages like {"role": "user", "content": "Hi"}.'
        )
    return [_read_message(message, takes_images) for message in messages]


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and isinstance(message.get("role"), str)


def _read_message(message: dict[str, Any], takes_images: bool) -> dict[str, Any]:
    role = "system" if message["role"] == "developer" else message["role"]
    parts = _parts(message.get("content"))
    if takes_images:
        return message | {"role": role, "content": parts}
    if any(part["type"] == "image" for part in parts):
        raise PromptError("A message has an image; this model takes no images.")
    # Most language models' templates know no parts.
    return message | {"role": role, "content": "\n".join(part["text"] for part in parts)}


def _parts(content: Any) -> list[dict[str, Any]]:
    """Return a message's content as parts of the types that templates know."""
    if content is None or isinstance(content, str):
        return [{"type": "text", "text": content or ""}]
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise PromptError(
            f"A message's content is {_shown(content)}; it has to be a text, null, or a list of parts such as "
            '{"type": "text", "text": "Hi"}.'
        )
    return [_part(part) for part in content]


def _part(part: dict[str, Any]) -> dict[str, Any]:
    kind = part.get("type")
    if kind in _IMAGE_TYPES:
        return {"type": "image"}  # where it comes from says the tensor `images`, never the message
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    raise PromptError(f"A message has a part {_shown(part)}; a part's type is text, with a text, or image.")


def _shown(value: Any) -> str:
    return json.dumps(value)[:80]
