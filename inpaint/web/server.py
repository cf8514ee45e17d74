"""The server: API and page on one address, with a folder for the page's temporary files that is removed at the end."""

from __future__ import annotations

import importlib
import importlib.util
import ipaddress
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import RedirectResponse

from inpaint.web.api import make_api

if TYPE_CHECKING:
    from fastapi import FastAPI

    from inpaint.web.credentials import Credentials
    from inpaint.web.filler import Filler
    from inpaint.web.limits import Limits

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
_KEEP_ALIVE = 5  # seconds that a silent connection stays open
_GRACE = 5  # seconds for requests that run when the server is stopped


@contextmanager
def make_server(
    filler: Filler,
    limits: Limits,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    credentials: Credentials | None = None,
    names: Sequence[str] = (),
) -> Iterator[uvicorn.Server]:
    """A server that is ready to ``run``.

    Args:
        filler, limits, credentials: as for ``make_api``.
        host: the address to listen at. At one of this machine alone, requests have to be for one of its names: a web
            site cannot get at the server by giving its own name this address (DNS rebinding).
        port: 0 for any that is free.
        names: further names by which the server may be asked, for instance a proxy's.
    """
    api = make_api(filler, limits, credentials)
    if is_local(host) or names:
        api.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL_NAMES, *names], www_redirect=False)
    with tempfile.TemporaryDirectory(prefix="inpaint-") as folder:
        add_page(api, filler, limits, folder)
        yield uvicorn.Server(
            uvicorn.Config(
                api,
                host=host,
                port=port,
                log_level="warning",
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE,
                timeout_graceful_shutdown=_GRACE,
            )
        )


def is_local(host: str) -> bool:
    """Whether it can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def add_page(api: FastAPI, filler: Filler, limits: Limits, folder: str) -> None:
    """The page at ``/``. ``folder``: where gradio keeps what a visitor uploads and downloads."""
    if importlib.util.find_spec("inpaint.web.page") is None:
        api.get("/", include_in_schema=False)(lambda: RedirectResponse("/docs"))
        return
    os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
    import gradio

    page = importlib.import_module("inpaint.web.page")
    gradio.mount_gradio_app(
        api,
        page.make_page(filler, limits),
        path="/",
        allowed_paths=[],
        max_file_size=limits.upload,
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
        run_history=False,
        enable_monitoring=False,
        footer_links=[],
        **page.LOOK,
    )
