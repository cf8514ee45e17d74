"""Errors of the service as JSON, {"error": "..."}: what was expected, what came, what to do."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse


def error(status: int, text: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An answer of that HTTP status."""
    return JSONResponse({"error": text}, status, {"Cache-Control": "no-store", **(headers or {})})
