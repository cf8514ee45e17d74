"""``inpaint web``: a server with a page and an HTTP API."""

from __future__ import annotations

import importlib.util
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from inpaint.commands.common import FILE, Grouped, Number, option, read_text
from inpaint.commands.filling import max_memory_option
from inpaint.commands.painting import PRECISION, THREADS, WEIGHTS, WORK, max_megapixels_option
from inpaint.errors import InpaintError

if TYPE_CHECKING:
    from pathlib import Path

    from inpaint.web.credentials import Credentials

_ADDRESS, _LIMITS = "Who may use it", "Limits"


@click.command(cls=Grouped)
@option("--host", default="127.0.0.1", show_default=True, heading=_ADDRESS, help="Address to listen at.")
@option(
    "--port",
    type=click.IntRange(0, 65535),
    default=7860,
    show_default=True,
    heading=_ADDRESS,
    help="Port to listen at; 0 takes a free one.",
)
@option(
    "--auth",
    metavar="USER:PASSWORD",
    envvar="INPAINT_AUTH",
    heading=_ADDRESS,
    help="Ask for them. Also from the environment variable INPAINT_AUTH.",
)
@option("--auth-file", type=FILE, heading=_ADDRESS, help="Read USER:PASSWORD from this file.")
@option(
    "--allow-host",
    "names",
    metavar="NAME",
    multiple=True,
    heading=_ADDRESS,
    help="A name by which the server may be asked, besides this machine's own; for a proxy. Repeatable.",
)
@option(
    "--max-upload",
    type=Number(min=0, min_open=True),
    metavar="MIB",
    default=100,
    show_default=True,
    heading=_LIMITS,
    help="Largest request, all files together.",
)
@max_megapixels_option(_LIMITS, default=50, what="photograph")
@option(
    "--queue",
    type=click.IntRange(min=0),
    metavar="N",
    default=8,
    show_default=True,
    heading=_LIMITS,
    help="Requests that may wait; further ones are refused.",
)
@option(
    "--timeout",
    type=Number(min=0, min_open=True),
    metavar="SECONDS",
    default=120,
    show_default=True,
    heading=_LIMITS,
    help="From a request's arrival to its result.",
)
@WEIGHTS
@option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda|cuda:N|mps",
    help="Where to compute; auto and cuda take every GPU, each with a worker.",
    heading=WORK,
)
@PRECISION
@THREADS
@max_memory_option()
def web(
    host: str,
    port: int,
    auth: str | None,
    auth_file: Path | None,
    names: tuple[str, ...],
    max_upload: float,
    max_megapixels: float,
    queue: int,
    timeout: float,
    weights: str,
    device: str,
    precision: str,
    threads: int | None,
    max_memory: float | None,
) -> None:
    """Serve a page with a brush, and an HTTP API, until Ctrl-C.

    Everything is computed on this machine, and nothing is kept. By default only this machine reaches the server. With
    another --host, set --auth; passwords are encrypted by a proxy with HTTPS only.

    \b
    Examples:
      inpaint web
      inpaint web --host 0.0.0.0 --auth-file password.txt --queue 32
    """
    for module in ("fastapi", "gradio", "multipart", "prometheus_client", "uvicorn"):
        if importlib.util.find_spec(module) is None:
            raise InpaintError(
                f"this needs {module}, which is not installed: pip install 'patchswap[web]'; in a checkout: "
                "pip install '.[web]'"
            )

    from inpaint.threads import set_threads
    from inpaint.web.filler import Filler
    from inpaint.web.inpainters import load_all
    from inpaint.web.limits import Limits
    from inpaint.web.server import is_local, make_server

    credentials = _credentials(auth, auth_file)
    limits = Limits(round(max_upload * 2**20), max_megapixels, queue, timeout)
    set_threads(threads)
    click.echo("loading the networks", err=True)
    inpainters = load_all(weights, device, precision=precision, max_memory=max_memory and 2**30 * max_memory)
    if credentials is None and not is_local(host):
        click.echo(f"note: without --auth, all who reach {host} can use the server", err=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # which removes the temporary files
    with (
        Filler(inpainters, waiting=limits.waiting, timeout=limits.timeout) as filler,
        make_server(filler, limits, host=host, port=port, credentials=credentials, names=names) as server,
    ):
        server.on_ready = lambda address: click.echo(f"{address} (Ctrl-C ends it)", err=True)
        with suppress(KeyboardInterrupt):
            server.run()
    sys.exit(0 if server.started else 1)


def _credentials(text: str | None, file: Path | None) -> Credentials | None:
    from inpaint.web.credentials import Credentials

    if file is not None:
        text = read_text(file)
    return None if text is None else Credentials.of(text)
