"""Errors as the page shows them: a box with our words that stays until it is closed."""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from inpaint.errors import InpaintError
from inpaint.web.filler import Stopped
from inpaint.web.words import for_visitors


@contextmanager
def readable() -> Iterator[None]:
    """Shows what a visitor can mend, or why there is no result."""
    try:
        yield
    except (InpaintError, Stopped) as error:
        raise gr.Error(html.escape(for_visitors(error)), duration=None, print_exception=False) from error
