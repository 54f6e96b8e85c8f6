"""Checks that Triton and its models really answer.

Triton reports a model as ready even when its process has died, so every model is asked for one token.
"""

import asyncio
import time
from contextlib import aclosing

from .catalog import Catalog, Model
from .errors import BUSY, TIMEOUT, ApiError
from .triton import SequenceInputs, Triton

_FRESH_SECONDS = 2.0
"""Seconds for which a result is reused, however many clients ask."""
_ANSWER_SECONDS = 5.0
_ONE_TOKEN: SequenceInputs = {"prompts": "a", "max_length": 1}


class Health:
    """Probes Triton and its models and caches the result for a moment."""

    def __init__(self, triton: Triton, catalog: Catalog) -> None:
        self._triton = triton
        self._catalog = catalog
        self._lock = asyncio.Lock()
        self._asked = -_FRESH_SECONDS
        self._states: dict[str, str] = {}

    async def states(self) -> dict[str, str]:
        """Return "ok" or the reason of failure, for `triton` and for each model by name."""
        async with self._lock:
            if time.monotonic() - self._asked >= _FRESH_SECONDS:
                self._states = await self._ask()
                self._asked = time.monotonic()
            return self._states

    async def _ask(self) -> dict[str, str]:
        try:
            if not await self._triton.is_ready(_ANSWER_SECONDS):
                return {"triton": "Triton is not ready."}
            models = await self._catalog.models()
        except ApiError as error:
            return {"triton": str(error.detail)}
        if not models:
            return {"triton": "Triton serves no model that answers prompts."}
        states = await asyncio.gather(*map(self._probe, models))
        return {"triton": "ok"} | {model.name: state for model, state in zip(models, states, strict=True)}

    async def _probe(self, model: Model) -> str:
        try:
            await self._triton.infer(model.name, _ONE_TOKEN, ("sentences",), _ANSWER_SECONDS)
            if model.stream_name is not None:
                responses = self._triton.stream(model.stream_name, _ONE_TOKEN, ("sentences",), _ANSWER_SECONDS)
                async with aclosing(responses):
                    async for _ in responses:
                        pass
        except ApiError as error:
            # A refusal is fine: a model of another kind does not know this request, but it answers.
            if error.status_code >= 500 and error.code not in (TIMEOUT, BUSY):
                return str(error.detail)
        return "ok"
