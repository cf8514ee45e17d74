"""The progress bar of a run over many photographs, and lines of text above it."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

import click


class Bar:
    """Shows how many photographs are done, how many a second, and the time left.

    It is drawn on a terminal alone, and only where tqdm is installed; without it a line says what to install.

    Args:
        total: photographs.
        quiet: neither bar nor lines.
    """

    def __init__(self, total: int, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None
        if quiet or not sys.stderr.isatty():
            return
        try:
            from tqdm import tqdm
        except ImportError:
            click.echo("for a bar with rate and time left: pip install tqdm", err=True)
        else:
            self._bar = tqdm(total=total, unit="photo", dynamic_ncols=True, smoothing=0.05)

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self) -> None:
        if self._bar is not None:
            self._bar.update()

    def say(self, text: str) -> None:
        """Prints a line, unless everything is to be quiet."""
        if not self._quiet:
            self.warn(text)

    def warn(self, text: str) -> None:
        """Prints a line in any case."""
        if self._bar is None:
            click.echo(text, err=True)
        else:
            self._bar.write(text, file=sys.stderr)
