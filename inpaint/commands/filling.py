"""Options that say how a hole is filled, for the commands that have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from inpaint.commands.common import Number, Scales, option
from inpaint.commands.painting import WORK

FILLING = "The filling"
_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def page_option(heading: str) -> _Decorator:
    return option(
        "--page",
        type=click.IntRange(min=1),
        metavar="N",
        default=1,
        show_default=True,
        heading=heading,
        help="Page of a TIFF; the others stay as they are.",
    )


def feather_option() -> _Decorator:
    return option(
        "--feather",
        type=click.IntRange(min=0, max=1000),
        metavar="PIXELS",
        default=0,
        show_default=True,
        heading=FILLING,
        help="Blend the photograph into the filling, from the rim inwards.",
    )


def scales_option(photograph: str) -> _Decorator:
    """``photograph``: what the help calls it."""
    return option(
        "--scales",
        type=Scales(),
        heading=FILLING,
        help=f"Short sides in pixels, coarse to fine: {photograph}'s own, halved some times. [automatic]",
    )


def max_memory_option() -> _Decorator:
    return option(
        "--max-memory",
        type=Number(min=0, min_open=True),
        metavar="GIB",
        heading=WORK,
        help="Memory for the work on windows; fine scales of large holes that need more are left out. "
        "[half of what is free]",
    )
