"""Ctrl-C and SIGTERM end a long run in order: what is begun is finished, nothing new is begun."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interruption:
    """Whether the run is to end (``stop``), and the signal that asked for it."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.signal: int | None = None

    @property
    def exit_code(self) -> int | None:
        """As a shell reports a process that a signal has ended; None where there was none."""
        return None if self.signal is None else 128 + self.signal


@contextmanager
def orderly_end(message: str) -> Iterator[Interruption]:
    """Yields what the first signal sets; it prints the message as well. The second one ends the process at once."""
    interruption = Interruption()
    before: dict[int, Any] = {}

    def on_signal(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        interruption.signal = number
        interruption.stop.set()
        os.write(2, message.encode())  # print() may be at work in the interrupted code, and does not nest

    if threading.current_thread() is threading.main_thread():
        for asking in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(asking) is not signal.SIG_IGN:  # as a shell sets it for programs in the background
                before[asking] = signal.signal(asking, on_signal)
    try:
        yield interruption
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
