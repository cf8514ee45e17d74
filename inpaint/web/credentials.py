"""One user name and password for the API and the page: HTTP's Basic authentication (RFC 7617)."""

from __future__ import annotations

import base64
import binascii
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inpaint.errors import InpaintError
from inpaint.web import answers

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

OPEN = ("/health",)  # for whatever watches the service; it tells nothing else


@dataclass(frozen=True)
class Credentials:
    """A user and a password."""

    user: str
    password: str = field(repr=False)

    @classmethod
    def of(cls, text: str) -> Credentials:
        """From "USER:PASSWORD". InpaintError for any other form; the text stays out of the message."""
        user, colon, password = text.strip().partition(":")
        if not (user and colon and password):
            raise InpaintError("auth: expected USER:PASSWORD, got another form; give both, with a colon between them")
        return cls(user, password)

    def fit(self, header: bytes) -> bool:
        """Whether an Authorization header holds them. Takes as long whichever character is wrong."""
        scheme, _, encoded = header.partition(b" ")
        try:
            given = base64.b64decode(encoded.strip(), validate=True) if scheme.lower() == b"basic" else b""
        except binascii.Error:
            given = b""
        return secrets.compare_digest(given, f"{self.user}:{self.password}".encode())


class Locked:
    """ASGI middleware that lets in who has the credentials."""

    def __init__(self, app: ASGIApp, credentials: Credentials) -> None:
        self._app = app
        self._credentials = credentials

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in OPEN or self._is_known(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            asks = {"WWW-Authenticate": 'Basic realm="inpaint", charset="UTF-8"', "Connection": "close"}
            text = "expected the user and password of this server, got none or others; send them (HTTP Basic)"
            await answers.error(401, text, asks)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _is_known(self, scope: Scope) -> bool:
        return self._credentials.fit(dict(scope["headers"]).get(b"authorization", b""))
