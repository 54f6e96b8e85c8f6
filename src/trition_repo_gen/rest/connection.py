"""Handles one client's connection: detects that it closed, and sends server-sent events."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any

from fastapi import Response
from starlette.types import Receive, Scope, Send

from .errors import ApiError

_CLIENT_GONE = 499  # nginx's code; no client receives it


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Response]) -> Response:
    """Return the response of `work`; cancel it when the client closes the connection."""
    response = await _race(receive, work)
    return Response(status_code=_CLIENT_GONE) if response is None else response


class EventStream(Response):
    """A response of server-sent events; closes the generator when the client closes the connection.

    Args:
        events: encoded events. An `ApiError` raised before the first one becomes the response.
    """

    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-store"
        self.headers["x-accel-buffering"] = "no"  # nginx would buffer the events
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the client disconnects."""
        try:
            await _race(receive, self._send_all(send))
        except ApiError as error:
            await error.response()(scope, receive, send)

    async def _send_all(self, send: Send) -> None:
        started = False
        async with aclosing(self._events) as events:
            async for event in events:
                if not started:
                    started = True
                    await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _race[T](receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """Return the result of `work`, or None if the client disconnects first."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnection(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        gone.cancel()
        # Wait until the cancelled calls to Triton have ended.
        await asyncio.gather(working, gone, return_exceptions=True)


async def _disconnection(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
