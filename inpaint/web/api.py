"""The HTTP API: ``POST /fill``, health, metrics, and the page that describes them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from fastapi import FastAPI, Form, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from inpaint.errors import InpaintError
from inpaint.web import answers
from inpaint.web.admission import Admission
from inpaint.web.credentials import Credentials, Locked
from inpaint.web.download import MEDIA_TYPES
from inpaint.web.fill_form import FillForm
from inpaint.web.filler import Busy, Cancelled, Stopped, TimedOut
from inpaint.web.same_site import SameSite
from inpaint.web.words import for_visitors

if TYPE_CHECKING:
    from inpaint.web.download import Download
    from inpaint.web.filler import Filler, Ticket
    from inpaint.web.limits import Limits

NOTES = "Inpaint-Notes"  # the header
_WORDS = {  # for what frameworks say of a request
    400: "expected a form (multipart/form-data), got a body that cannot be read as one; send one (curl: -F NAME=VALUE)",
    404: "expected an address that /docs lists, got another one; correct it",
    405: "expected a method that /docs lists for this address, got another one; choose that one",
}


class Error(BaseModel):
    """A problem in one line."""

    error: str = Field(description="What was expected, what came, what to do.")


class Health(BaseModel):
    """Whether the service can work."""

    status: str = Field(description='"ok".')


_ERRORS = {
    400: "The body is no form.",
    401: "User and password are missing or wrong.",
    403: "The request comes from another web site.",
    408: "The upload took too long.",
    413: "The body is larger than the limit.",
    422: "A file or an option is unfit: damaged, of the wrong size, too many megapixels, out of range.",
    500: "An error of the server. Its log has the details.",
    503: "The queue is full. Retry-After says after how many seconds to try again.",
    504: "The time limit has passed.",
}


def _described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": _ERRORS[status], "model": Error} for status in statuses}


def make_api(filler: Filler, limits: Limits, credentials: Credentials | None = None) -> FastAPI:
    """The application; a page can be mounted on it.

    Args:
        filler: fills; closing it is the caller's.
        limits: for every request.
        credentials: asked for by all but ``GET /health``; None lets everyone in.
    """
    api = FastAPI(
        title="inpaint",
        description="Fills the holes that are marked in photographs. Pixels outside the hole keep their exact values. "
        "Nothing is kept on the server.",
    )
    api.add_middleware(Admission, filler=filler, limits=limits)
    api.add_middleware(SameSite)
    if credentials is not None:
        api.add_middleware(Locked, credentials=credentials)
    _add_errors(api)

    @api.post(
        "/fill",
        summary="Fill the hole of a photograph",
        response_class=Response,
        responses={
            200: {
                "description": "The photograph in the format, size and depth of its file, with its metadata.",
                "content": {
                    media_type: {"schema": {"type": "string", "format": "binary"}}
                    for media_type in MEDIA_TYPES.values()
                },
                "headers": {
                    NOTES: {
                        "description": "Remarks about photograph, hole and format: a JSON array of strings.",
                        "schema": {"type": "string"},
                    }
                },
            },
            **_described(*_ERRORS),
        },
    )
    async def fill(request: Request, form: Annotated[FillForm, Form(media_type="multipart/form-data")]) -> Response:
        """Fills what `mask`, `box` or another field marks. The fields are the options of the command `inpaint fill`."""
        ticket = filler.submit(lambda turn: form.filled(turn, limits.megapixels))
        return _answer(await _unless_gone(ticket, request))

    @api.get("/health", summary="Whether the service can work", responses=_described(503))
    async def health() -> Health:
        """For programs that watch the service. It asks for no password."""
        if not filler.is_alive:
            raise HTTPException(503, "expected a worker for each device, got fewer; start the server again")
        return Health(status="ok")

    @api.get(
        "/metrics",
        summary="Counts and times for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **_described(401)},
    )
    async def metrics() -> Response:
        """Tasks by outcome, their seconds, the state of the queue, and the memory of the process."""
        return Response(filler.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return api


async def _unless_gone(ticket: Ticket[Download], request: Request) -> Download:
    """The result; the work ends when the client goes away."""
    result = asyncio.ensure_future(ticket.wait())
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((result, gone), return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise Cancelled
        return result.result()
    finally:
        gone.cancel()
        result.cancel()  # and with it the task


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answer(download: Download) -> Response:
    ascii_name = download.name.encode("ascii", "replace").decode().replace('"', "'")
    return Response(
        download.content,
        media_type=download.media_type,
        headers={
            "Content-Disposition": f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(download.name)}",
            NOTES: json.dumps(download.notes),
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        },
    )


def _add_errors(api: FastAPI) -> None:
    """Every problem is an answer of ours; none shows the server's code."""

    @api.exception_handler(InpaintError)
    async def refused(_: Request, problem: InpaintError) -> Response:
        return answers.error(422, for_visitors(problem))

    @api.exception_handler(RequestValidationError)
    async def unfit(_: Request, problem: RequestValidationError) -> Response:
        return answers.error(422, "; ".join(_in_words(each) for each in problem.errors()))

    @api.exception_handler(HTTPException)
    async def plain(_: Request, problem: HTTPException) -> Response:
        text = _WORDS.get(problem.status_code, str(problem.detail))
        return answers.error(problem.status_code, text, problem.headers)

    @api.exception_handler(Busy)
    async def busy(_: Request, problem: Busy) -> Response:
        return answers.error(503, str(problem), {"Retry-After": str(problem.retry_after)})

    @api.exception_handler(TimedOut)
    async def late(_: Request, problem: TimedOut) -> Response:
        return answers.error(504, str(problem))

    @api.exception_handler(Stopped)
    async def stopped(_: Request, problem: Stopped) -> Response:
        return answers.error(503, str(problem))

    @api.exception_handler(Exception)
    async def failed(_: Request, problem: Exception) -> Response:
        return answers.error(500, "an error of the server; try another photograph, or tell who runs the server")


def _in_words(problem: Any) -> str:
    """One of pydantic's problems: the field, what was expected, what came, what to do."""
    name = str(problem["loc"][1]) if len(problem["loc"]) > 1 else "the request"
    given = problem.get("input")
    got = repr(given)[:100] if isinstance(given, str | int | float) else "something else"
    kind = problem["type"]
    if kind == "missing":
        return f"{name}: expected a value, got none; send it as a field of the form"
    if kind == "extra_forbidden":
        return f"{name}: expected one of the fields that /docs lists, got this one; leave it out or correct its name"
    if "UploadFile" in problem["msg"]:
        return f"{name}: expected a file, got text; send it as a file (curl: -F {name}=@FILE)"
    expected = problem["msg"].removeprefix("Input should be ").removeprefix("a ")
    return f"{name}: expected {expected[:1].lower()}{expected[1:]}, got {got}; see /docs"
