"""The server: API and page on one address, with a folder for the page's temporary files that is removed at the end."""

from __future__ import annotations

import ipaddress
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from inpaint.errors import InpaintError
from inpaint.web.api import make_api
from inpaint.web.page_routes import PageRoutes

if TYPE_CHECKING:
    import gradio
    from fastapi import FastAPI

    from inpaint.web.credentials import Credentials
    from inpaint.web.filler import Filler
    from inpaint.web.limits import Limits

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
KEPT = 3600  # seconds after which a temporary file of the page is removed
_CLEANING = 60  # seconds between two looks for such files
_KEEP_ALIVE = 5  # seconds that a silent connection stays open
_GRACE = 5  # seconds for requests that run when the server is stopped


class Server(uvicorn.Server):
    """Calls ``on_ready`` with its address when it listens."""

    on_ready: Callable[[str], None] = staticmethod(lambda address: None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self.on_ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")


@contextmanager
def make_server(
    filler: Filler,
    limits: Limits,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    credentials: Credentials | None = None,
    names: Sequence[str] = (),
) -> Iterator[Server]:
    """A server that is ready to ``run``.

    Args:
        filler, limits, credentials: as for ``make_api``.
        host: the address to listen at. At one of this machine alone, requests have to be for one of its names: a web
            site cannot get at the server by giving its own name this address (DNS rebinding).
        port: 0 for any that is free.
        names: further names by which the server may be asked, for instance a proxy's; "*.example.org" stands for all
            names that end so.

    Raises:
        InpaintError: a name of another form.
    """
    for name in names:
        if "*" in name and not (name.startswith("*.") and "*" not in name[1:]):
            raise InpaintError(f"host: expected a name such as example.org or *.example.org, got {name!r}; correct it")
    api = make_api(filler, limits, credentials)
    if is_local(host) or names:
        api.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL_NAMES, *names], www_redirect=False)
    with tempfile.TemporaryDirectory(prefix="inpaint-") as folder:
        add_page(api, filler, limits, folder)
        yield Server(
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
    os.environ.update(  # some of which gradio reads when it is imported
        GRADIO_TEMP_DIR=folder,
        GRADIO_EXAMPLES_CACHE=folder,
        GRADIO_ANALYTICS_ENABLED="False",
        GRADIO_MCP_SERVER="False",
    )
    from inpaint.web import page

    mount(api, page.make_page(filler, limits), limits, folder, page.LOOK)


def mount(api: FastAPI, page: gradio.Blocks, limits: Limits, folder: str, look: Mapping[str, Any]) -> None:
    """Puts a page of gradio at ``/``.

    Args:
        look: further arguments of ``gradio.mount_gradio_app``: css, theme, head and the like.
    """
    import gradio

    page.delete_cache = (_CLEANING, KEPT)
    page.has_launched = True  # without it gradio takes any path that a visitor sends for an uploaded file's
    api.add_middleware(PageRoutes, folder=folder)
    # One that allows no other site; gradio's own lets all sites in where the server is not asked as localhost.
    api.add_middleware(CORSMiddleware)
    gradio.mount_gradio_app(
        api,
        page,
        path="/",
        allowed_paths=[],
        max_file_size=limits.upload,
        show_error=False,
        ssr_mode=False,
        run_history=False,
        enable_monitoring=False,
        footer_links=[],
        **look,
    )
