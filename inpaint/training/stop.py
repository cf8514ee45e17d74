"""Ending a run when it is told to."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Turns SIGTERM and SIGINT into a question the loop can ask, so that it saves before it ends."""
    received: list[int] = []
    try:
        previous = {
            number: signal.signal(number, lambda received_number, frame: received.append(received_number))
            for number in (signal.SIGTERM, signal.SIGINT)
        }
    except ValueError:  # not the main thread: the caller owns the signals
        previous = {}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
