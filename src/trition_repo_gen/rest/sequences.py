"""Translates a checked request into sequences of the wire."""

import json
from collections.abc import Iterator
from typing import Any, cast

from trition_repo_gen.runtime.common import wire

from .catalog import Model
from .errors import ApiError
from .requests import AS_IS, ChatRequest, CompletionRequest, Message, TextPart
from .triton import SequenceInputs, Value

_MAX_SEQUENCES = 128
_COMPLETION_TOKENS = 16
"""OpenAI's default for completions; a chat may fill the sequence."""
_MAX_SEED = 2**63


def completion_sequences(request: CompletionRequest, model: Model) -> list[SequenceInputs]:
    """Return the sequences of a completion: `n` per prompt, prompt by prompt.

    Raises:
        ApiError: the prompts are not text, or the model does not support the request.
    """
    prompts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if not prompts or len(texts) != len(prompts):
        raise ApiError(400, "prompt has to be a text or a list of texts; token ids are not supported.", param="prompt")
    images = request.images_of(len(texts))
    if any(images) and not model.takes_images:
        raise _takes_no_images(model, "image" if request.image else "images")
    max_tokens = request.max_tokens
    if max_tokens is None and not any(
        images
    ):  # about an image, which only NeMo's clients send here: the model's default
        max_tokens = _COMPLETION_TOKENS
    values = _sampling(request, max_tokens, model)
    if request.echo:
        values["echo"] = True
    if request.logprobs is not None:
        values |= _log_probs(model, request.logprobs)
    pairs = zip(texts, images, strict=True)
    wanted = [{**values, "prompts": text} | ({"images": image} if image else {}) for text, image in pairs]
    return list(_each(request, wanted))


def chat_sequences(request: ChatRequest, model: Model) -> list[SequenceInputs]:
    """Return the sequences of a chat: `n` of the conversation.

    Raises:
        ApiError: the model does not support the request, such as images for a text model.
    """
    images: list[str] = []
    messages = [_wire_message(message, model, images) for message in request.messages]
    values: dict[str, Value] = {"prompts": json.dumps(messages, ensure_ascii=False), "apply_chat_template": True}
    if images:
        values["images"] = images[0] if len(images) == 1 else json.dumps(images)
    max_tokens = request.max_completion_tokens or request.max_tokens or model.max_length
    values |= _sampling(request, max_tokens, model)
    if request.top_logprobs and not request.logprobs:
        raise ApiError(400, "top_logprobs is only allowed when logprobs is true.", param="top_logprobs")
    if request.logprobs:
        values |= _log_probs(model, request.top_logprobs or 0)
    return list(_each(request, [values]))


def _sampling(request: CompletionRequest | ChatRequest, max_length: int | None, model: Model) -> dict[str, Value]:
    temperature = 1.0 if request.temperature is None else request.temperature
    top_p = 1.0 if request.top_p is None else request.top_p
    # On the wire, top_k defaults to 1, and 0 turns a filter off. OpenAI's top_p of 0 leaves only the most likely token.
    # NeMo's clients send top_k too, and mean the wire's top_p.
    top_k = 1 if top_p == 0 and request.top_k is None else max(0, request.top_k or 0)
    values: dict[str, Value] = {"temperature": temperature, "top_k": top_k}
    if 0 < top_p < 1:
        values["top_p"] = top_p
    if max_length is not None:
        values["max_length"] = max_length
    for tensor in AS_IS:
        if (value := getattr(request, tensor.rest)) is not None:
            values[tensor.name] = _packed(tensor, value)
    if request.min_tokens:
        values["min_length"] = request.min_tokens
    if request.ignore_eos and "ignore_eos" in model.inputs:
        values["ignore_eos"] = True
    elif request.ignore_eos and max_length is not None:  # a repository of an older version
        values["min_length"] = max_length
    if request.stop_words:
        values["stop_words"] = json.dumps(request.stop_words, ensure_ascii=False)
    return values


def _packed(tensor: wire.Input, value: Any) -> Value:
    if not isinstance(tensor, wire.Json):
        return cast(Value, value)
    try:
        tensor.check(value)
    except wire.BadRequestError as error:
        raise ApiError(400, str(error), param=tensor.rest) from None
    return tensor.pack(value).decode()


def _log_probs(model: Model, count: int) -> dict[str, Value]:
    if not {"log_probs", "tokens"} <= model.outputs:
        raise ApiError(400, f"The model {model.name!r} gives no log-probabilities.", param="logprobs")
    values: dict[str, Value] = {"compute_logprob": True}
    return {**values, "n_top_logprobs": count} if count else values


def _each(request: CompletionRequest | ChatRequest, prompts: list[dict[str, Value]]) -> Iterator[SequenceInputs]:
    if len(prompts) * request.choices > _MAX_SEQUENCES:
        raise ApiError(
            400, f"There are {len(prompts)} prompts with n {request.choices}; {_MAX_SEQUENCES} answers at most."
        )
    for values in prompts:
        for choice in range(request.choices):
            # With one seed, all choices of a prompt would be equal.
            seed = {} if request.seed is None else {"random_seed": (request.seed + choice) % _MAX_SEED}
            yield values | seed


def _takes_no_images(model: Model, param: str) -> ApiError:
    return ApiError(400, f"The model {model.name!r} takes no images.", param=param)


def _wire_message(message: Message, model: Model, images: list[str]) -> dict[str, Any]:
    """Return a message as the ranks read it; its images are appended to `images`."""
    extra = message.model_extra or {}
    if not isinstance(message.content, list):
        return {"role": message.role, "content": message.content, **extra}
    content = []
    for part in message.content:
        if isinstance(part, TextPart):
            content.append({"type": "text", "text": part.text})
            continue
        if not model.takes_images:
            raise _takes_no_images(model, "messages")
        images.append(part.source)
        content.append({"type": "image"})
    return {"role": message.role, "content": content, **extra}
