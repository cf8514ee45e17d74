"""One photograph of a run, from its file to the file of its result: the same step in every engine."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Protocol

from inpaint.batch import task
from inpaint.batch.manifest import Entry
from inpaint.batch.pairs import Pair
from inpaint.batch.task import Fills, Given, Options

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Places(Protocol):
    """Where files are, and where results go. Its methods raise OSError where that fails."""

    def read(self, pair: Pair) -> Given: ...

    def write(self, pair: Pair, content: bytes) -> None:
        """The result's file appears whole or not at all."""


def fill(
    pair: Pair, places: Places, options: Options, digest: bytes, inpainter: Fills, *, is_done: Callable[[str], bool]
) -> Entry | None:
    """Fills one photograph, unless it was done before.

    Args:
        digest: of the options.
        is_done: whether the result is there already, of its key (``inpaint.batch.task.key``).

    Returns:
        What became of it; None where it was done before.

    Raises:
        OSError: there is no room for the result. All else that goes wrong is in the entry.
    """
    start = time.perf_counter()
    key, result, error = "", None, None
    try:
        given = places.read(pair)
        key = task.key(given, digest)
        if is_done(key):
            return None
        result = task.fill(given, options, inpainter)
        places.write(pair, result.content)
    except Exception as problem:  # one bad photograph must not end the run, whatever is wrong with it
        if isinstance(problem, OSError) and problem.errno in _NO_ROOM:
            raise
        error = task.reason(problem)
    seconds = round(time.perf_counter() - start, 3)
    if result is None or error is not None:
        return Entry(pair.photograph, key, error=error, seconds=seconds)
    return Entry(pair.photograph, key, pair.output, len(result.content), notes=result.notes, seconds=seconds)
