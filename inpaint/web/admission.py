"""Who comes in: bodies up to a size, and to ``/fill`` as many requests at once as there are places in the queue.

A place is taken before the body is read, and kept until the answer is sent. So uploads and results that are in memory
or in temporary files are bounded: by the places, times the largest upload.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from inpaint.web import answers
from inpaint.web.filler import Busy

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from inpaint.web.filler import Filler
    from inpaint.web.limits import Limits

PHASES = 3  # of a request: upload, work and download, each within the time limit


class Admission:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, filler: Filler, limits: Limits) -> None:
        self._app = app
        self._filler = filler
        self._limits = limits
        self._places = filler.devices + limits.waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._limits.upload:
            await answers.error(413, self._too_large(), {"Connection": "close"})(scope, receive, send)
        elif scope["path"] != "/fill" or scope["method"] != "POST":
            await self._app(scope, self._limited(receive), send)
        elif not self._places:
            self._filler.count("busy")
            busy = Busy(self._filler.retry_after())
            close = {"Retry-After": str(busy.retry_after), "Connection": "close"}
            await answers.error(503, str(busy), close)(scope, receive, send)
        else:
            self._places -= 1
            try:
                await self._in_time(scope, self._limited(receive), send)
            finally:
                self._places += 1

    async def _in_time(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def sending(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        limit = PHASES * self._limits.timeout
        try:
            await asyncio.wait_for(self._app(scope, receive, sending), limit)
        except (TimeoutError, asyncio.TimeoutError):
            if has_begun:
                raise  # the server closes the connection
            text = f"expected the whole request within {limit:g} s, got a part of it; send it again"
            await answers.error(408, text, {"Connection": "close"})(scope, receive, send)

    def _limited(self, receive: Receive) -> Receive:
        """``receive``, which refuses what comes beyond the limit: a body need not say its length."""
        got = 0

        async def limited() -> Message:
            nonlocal got
            message = await receive()
            if message["type"] == "http.request":
                got += len(message.get("body", b""))
                if got > self._limits.upload:
                    raise HTTPException(413, self._too_large(), {"Connection": "close"})
            return message

        return limited

    def _too_large(self) -> str:
        return f"expected a request of at most {self._limits.upload} bytes, got more; send smaller files"
