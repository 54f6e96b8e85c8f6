"""Lists the models that Triton serves and what each of them supports."""

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from trition_repo_gen.runtime.common.wire import STREAM_SUFFIX

from .errors import ApiError, unknown_model
from .triton import Triton

_NEEDED = {"prompts", "sentences", "finish_reason", "prompt_tokens", "completion_tokens"}
_FRESH_SECONDS = 5.0
_LEAST_SECONDS = 0.5
"""Seconds between two searches for a model that Triton lacks."""
_ANSWER_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that answers prompts, as its configuration in Triton describes it."""

    name: str
    created: int
    """Seconds since 1970 at which this service first saw the model."""
    inputs: frozenset[str]
    outputs: frozenset[str]
    stream_name: str | None
    """The name of its streaming model; None if it has none."""
    max_length: int | None
    """Most tokens of prompt and answer together; None if the configuration does not say."""

    @property
    def takes_images(self) -> bool:
        """Whether it is a multimodal model."""
        return "images" in self.inputs

    def card(self) -> dict[str, Any]:
        """Return the model in OpenAI's shape, with further fields that our page and vLLM's clients read."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "trgen",
            "max_model_len": self.max_length,
            "input_modalities": ["text", "image"] if self.takes_images else ["text"],
        }


class Catalog:
    """Asks Triton for its models and caches the answer for a few seconds."""

    def __init__(self, triton: Triton) -> None:
        self._triton = triton
        self._models: dict[str, Model] = {}
        self._first_seen: dict[str, int] = {}
        self._asked = -_FRESH_SECONDS
        self._lock = asyncio.Lock()

    async def models(self) -> list[Model]:
        """Return all models that take prompts, sorted by name.

        Raises:
            ApiError: Triton does not answer.
        """
        await self._refresh(_FRESH_SECONDS)
        return list(self._models.values())

    async def get(self, name: str) -> Model:
        """Return one model.

        Raises:
            ApiError: there is none of this name, or Triton does not answer.
        """
        await self._refresh(_FRESH_SECONDS if name in self._models else _LEAST_SECONDS)
        if (model := self._models.get(name)) is None:
            raise unknown_model(name)
        return model

    async def _refresh(self, seconds: float) -> None:
        if time.monotonic() - self._asked < seconds:
            return
        await self._triton.connect()  # outside the lock, so that waiting requests wait in parallel
        async with self._lock:
            if time.monotonic() - self._asked < seconds:  # another request refreshed while this one waited
                return
            names = await self._triton.ready_models(_ANSWER_SECONDS)
            answers = await asyncio.gather(*map(self._config, names))
            configs = {config.name: config for config in answers if config is not None}
            self._models = {
                name: self._model(config, configs) for name, config in configs.items() if _answers_prompts(config)
            }
            self._asked = time.monotonic()

    async def _config(self, name: str) -> Any:
        try:
            return await self._triton.config(name, _ANSWER_SECONDS)
        except ApiError as error:
            if error.status_code in (400, 404):  # unloaded in the meantime
                return None
            raise

    def _model(self, config: Any, configs: Collection[str]) -> Model:
        streaming = f"{config.name}{STREAM_SUFFIX}"
        length = config.parameters["MAX_SEQUENCE_LENGTH"].string_value if config.parameters else ""
        return Model(
            name=config.name,
            created=self._first_seen.setdefault(config.name, int(time.time())),
            inputs=frozenset(tensor.name for tensor in config.input),
            outputs=frozenset(tensor.name for tensor in config.output),
            stream_name=streaming if streaming in configs else None,
            max_length=int(length) if length.isdecimal() else None,
        )


def _answers_prompts(config: Any) -> bool:
    """Whether it is a model that trgen wrote, and not a streaming model."""
    names = {tensor.name for tensor in (*config.input, *config.output)}
    return names >= _NEEDED and not config.model_transaction_policy.decoupled
