"""Other web sites' pages, open in a visitor's browser, make no requests that change or compute anything here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inpaint.web import answers

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class SameSite:
    """ASGI middleware that refuses what a browser marks as coming from another site (W3C Fetch Metadata).

    Programs other than browsers send no such mark.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reads = scope["type"] != "http" or scope["method"] in ("GET", "HEAD")
        if reads or dict(scope["headers"]).get(b"sec-fetch-site") != b"cross-site":
            await self._app(scope, receive, send)
        else:
            text = "expected a request of this server's own page, got one of another site; open this server's page"
            await answers.error(403, text, {"Connection": "close"})(scope, receive, send)
