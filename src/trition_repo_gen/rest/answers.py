"""Answers of Triton's models as they come: rows in, pieces of text and endings out."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from .catalog import Model
from .errors import ApiError
from .triton import Outputs, Row, Triton

_PLAIN = ("sentences", "finish_reason", "prompt_tokens", "completion_tokens")
_LOG_PROBS = ("log_probs", "tokens", "top_logprobs")


@dataclass(frozen=True)
class Ending:
    """What is known of a row when it is answered."""

    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    log_probs: list[float] | None = None
    """One a token; with `echo` the prompt's as well, without its first token's. None unless asked for, as below."""
    tokens: list[str] | None = None
    """How each token is spelt; with `echo` the prompt's as well."""
    top_logprobs: list[dict[str, float]] | None = None


@dataclass(frozen=True)
class Piece:
    """Some text of a row; the last one has the ending."""

    row: int
    text: str
    ending: Ending | None = None


async def whole_answers(triton: Triton, model: Model, rows: Sequence[Row]) -> list[Piece]:
    """Return one piece a row, in order. Cancelling the task cancels all calls.

    Raises:
        ApiError: a row was refused; nobody waits for the others then.
    """
    if len(rows) == 1:
        return [_piece(0, await triton.infer(model.name, rows[0], _wanted(rows[0])))]
    calls = [asyncio.ensure_future(triton.infer(model.name, row, _wanted(row))) for row in rows]
    try:
        return [_piece(index, outputs) for index, outputs in enumerate(await asyncio.gather(*calls))]
    finally:
        for call in calls:
            call.cancel()


async def streamed_answers(triton: Triton, model: Model, rows: Sequence[Row]) -> AsyncGenerator[Piece]:
    """Yield pieces of all rows as they come. Closing the generator cancels all calls.

    A model without a twin that streams gives each answer in one piece.

    Raises:
        ApiError: a row was refused.
    """
    if len(rows) == 1:
        async with aclosing(_stream(triton, model, 0, rows[0])) as pieces:
            async for piece in pieces:
                yield piece
        return
    queue: asyncio.Queue[Piece | BaseException | None] = asyncio.Queue()
    tasks = [asyncio.create_task(_pump(triton, model, index, row, queue)) for index, row in enumerate(rows)]
    try:
        running = len(rows)
        while running:
            item = await queue.get()
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(
    triton: Triton, model: Model, index: int, row: Row, queue: "asyncio.Queue[Piece | BaseException | None]"
) -> None:
    try:
        async with aclosing(_stream(triton, model, index, row)) as pieces:
            async for piece in pieces:
                queue.put_nowait(piece)
        queue.put_nowait(None)
    except Exception as error:
        queue.put_nowait(error)


async def _stream(triton: Triton, model: Model, index: int, row: Row) -> AsyncGenerator[Piece]:
    if model.stream_name is None:
        yield _piece(index, await triton.infer(model.name, row, _wanted(row)))
        return
    ended = False
    async with aclosing(triton.stream(model.stream_name, row, _wanted(row))) as responses:
        async for outputs in responses:
            yield _piece(index, outputs)
            ended = ended or "finish_reason" in outputs
    if not ended:
        raise ApiError(500, "Triton's stream ended before the answer did.")


def _wanted(row: Row) -> tuple[str, ...]:
    return (*_PLAIN, *_LOG_PROBS) if row.get("compute_logprob") else _PLAIN


def _piece(index: int, outputs: Outputs) -> Piece:
    text = outputs.get("sentences", "")
    if "finish_reason" not in outputs:
        return Piece(index, text)
    top = outputs.get("top_logprobs")
    tokens = outputs.get("tokens")
    return Piece(
        index,
        text,
        Ending(
            finish_reason=outputs["finish_reason"],
            prompt_tokens=outputs["prompt_tokens"],
            completion_tokens=outputs["completion_tokens"],
            log_probs=outputs.get("log_probs"),
            tokens=None if tokens is None else json.loads(tokens),
            top_logprobs=None if top is None else json.loads(top),
        ),
    )
