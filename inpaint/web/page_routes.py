"""Which of gradio's routes the page uses; all others are closed.

Among them are routes that fetch web addresses for a visitor, run ffmpeg, or read any file that gradio takes for its
own. Of the server's files only those in the folder of the page's temporary files can be read, by their long random or
content-derived names.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from inpaint.web import answers

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_API, _FILE = "/gradio_api/", "file="
_USED = (
    "app_id",
    "cancel",
    "heartbeat",
    "info",
    "login_check",
    "queue",
    "reset",
    "startup-events",
    "theme.css",
    "upload",
    "upload_progress",
)
_CLOSED = ("/custom_component", "/deep_link", "/login", "/logout", "/monitoring")


class PageRoutes:
    """ASGI middleware. ``folder``: of the page's temporary files."""

    def __init__(self, app: ASGIApp, folder: str) -> None:
        self._app = app
        self._folder = os.path.realpath(folder)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_open(scope["path"]):
            await self._app(scope, receive, send)
        else:
            await answers.error(404, "expected an address of the page or the API, got another one; see /docs")(
                scope, receive, send
            )

    def _is_open(self, path: str) -> bool:
        if not path.startswith(_API):
            return not path.startswith(_CLOSED)
        route = path.removeprefix(_API)
        if route.startswith(_FILE):
            file = os.path.realpath(route.removeprefix(_FILE))
            return file.startswith(self._folder + os.sep)
        return route.split("/", 1)[0] in _USED
