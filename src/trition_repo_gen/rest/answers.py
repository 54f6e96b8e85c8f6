"""Sends sequences to Triton and yields the answers as pieces of text."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from .catalog import Model
from .errors import ApiError
from .triton import Outputs, SequenceInputs, Triton

_PLAIN = ("sentences", "finish_reason", "prompt_tokens", "completion_tokens")
_LOG_PROBS = ("log_probs", "tokens", "top_logprobs")


@dataclass(frozen=True)
class Finish:
    """The result of a sequence, besides its text."""

    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    log_probs: list[float] | None = None
    """One per token; with `echo` the prompt's too, except its first token's. None unless requested, as below."""
    tokens: list[str] | None = None
    """The text of each token; with `echo` the prompt's too."""
    top_logprobs: list[dict[str, float]] | None = None


@dataclass(frozen=True)
class TextPiece:
    """A piece of a sequence's text; only the last piece has an `ending`."""

    sequence: int
    text: str
    ending: Finish | None = None


async def whole_answers(triton: Triton, model: Model, sequences: Sequence[SequenceInputs]) -> list[TextPiece]:
    """Return one piece per sequence, in order. Cancelling the task cancels all calls.

    Raises:
        ApiError: a sequence was refused; the other calls are cancelled.
    """
    if len(sequences) == 1:
        return [_piece(0, await triton.infer(model.name, sequences[0], _wanted(sequences[0])))]
    calls = [asyncio.ensure_future(triton.infer(model.name, sequence, _wanted(sequence))) for sequence in sequences]
    try:
        return [_piece(index, outputs) for index, outputs in enumerate(await asyncio.gather(*calls))]
    finally:
        for call in calls:
            call.cancel()


async def streamed_answers(
    triton: Triton, model: Model, sequences: Sequence[SequenceInputs]
) -> AsyncGenerator[TextPiece]:
    """Yield pieces of all sequences as they come. Closing the generator cancels all calls.

    A model without a streaming model yields each answer as one piece.

    Raises:
        ApiError: a sequence was refused.
    """
    if len(sequences) == 1:
        async with aclosing(_stream(triton, model, 0, sequences[0])) as pieces:
            async for piece in pieces:
                yield piece
        return
    queue: asyncio.Queue[TextPiece | BaseException | None] = asyncio.Queue()
    tasks = [
        asyncio.create_task(_pump(triton, model, index, sequence, queue)) for index, sequence in enumerate(sequences)
    ]
    try:
        running = len(sequences)
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
    triton: Triton,
    model: Model,
    index: int,
    sequence: SequenceInputs,
    queue: "asyncio.Queue[TextPiece | BaseException | None]",
) -> None:
    try:
        async with aclosing(_stream(triton, model, index, sequence)) as pieces:
            async for piece in pieces:
                queue.put_nowait(piece)
        queue.put_nowait(None)
    except Exception as error:
        queue.put_nowait(error)


async def _stream(triton: Triton, model: Model, index: int, sequence: SequenceInputs) -> AsyncGenerator[TextPiece]:
    if model.stream_name is None:
        yield _piece(index, await triton.infer(model.name, sequence, _wanted(sequence)))
        return
    ended = False
    async with aclosing(triton.stream(model.stream_name, sequence, _wanted(sequence))) as responses:
        async for outputs in responses:
            yield _piece(index, outputs)
            ended = ended or "finish_reason" in outputs
    if not ended:
        raise ApiError(500, "Triton's stream ended before the answer did.")


def _wanted(sequence: SequenceInputs) -> tuple[str, ...]:
    return (*_PLAIN, *_LOG_PROBS) if sequence.get("compute_logprob") else _PLAIN


def _piece(index: int, outputs: Outputs) -> TextPiece:
    text = outputs.get("sentences", "")
    if "finish_reason" not in outputs:
        return TextPiece(index, text)
    top = outputs.get("top_logprobs")
    tokens = outputs.get("tokens")
    return TextPiece(
        index,
        text,
        Finish(
            finish_reason=outputs["finish_reason"],
            prompt_tokens=outputs["prompt_tokens"],
            completion_tokens=outputs["completion_tokens"],
            log_probs=outputs.get("log_probs"),
            tokens=None if tokens is None else json.loads(tokens),
            top_logprobs=None if top is None else json.loads(top),
        ),
    )
