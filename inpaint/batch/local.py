"""Fills many photographs on this machine.

Each of several threads takes a photograph from its file to the file of its result, so that some read and write while
others compute. What is in memory is what these threads work on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from inpaint.batch import step, task
from inpaint.batch.manifest import Entry, Manifest
from inpaint.batch.pairs import Pair
from inpaint.batch.task import Fills, Given, Options
from inpaint.codec import reason
from inpaint.errors import InpaintError
from inpaint.photo import write_file

UNFINISHED = "batch-"  # part of the names of files that are not complete


@dataclass(frozen=True)
class Places:
    """Folders of the photographs, of their masks and of the results; or one mask for all photographs."""

    photographs: Path
    outputs: Path
    masks: Path | None = None
    mask: task.File | None = None

    def read(self, pair: Pair) -> Given:
        """Raises OSError where a file cannot be read."""
        mask = self.mask
        if pair.mask is not None and self.masks is not None:
            mask = read_file(self.masks / pair.mask)
        return Given(read_file(self.photographs / pair.photograph), mask, pair.output)

    def write(self, pair: Pair, content: bytes) -> None:
        """The result's file appears whole or not at all. Raises OSError where it cannot be written."""
        output = self.outputs / pair.output
        output.parent.mkdir(parents=True, exist_ok=True)
        write_file(output, content, temporary=UNFINISHED)


def read_file(path: Path) -> task.File:
    return task.File(str(path), path.read_bytes())


class DiskFullError(InpaintError):
    """No result can be written any more."""


Ended = Callable[[Pair, Entry | None], object]


def run(
    pairs: Iterable[Pair],
    places: Places,
    options: Options,
    inpainter: Fills,
    manifest: Manifest,
    *,
    jobs: int,
    threads: int,
    stop: threading.Event,
    ended: Ended,
) -> None:
    """Fills all photographs that the manifest does not call done.

    Args:
        pairs: the photographs, in the order in which they are begun.
        places: where their files are, and where results go.
        options: how they are filled.
        inpainter: ``SideBySide`` on a CPU, ``Together`` on a GPU.
        manifest: of the folder of results.
        jobs: photographs that are worked on at once.
        threads: of torch, for each of them.
        stop: once it is set, no further photograph is begun, and those at work are finished.
        ended: called for each photograph in turn, in this thread, with its new entry in the manifest, or None where it
            was done before.

    Raises:
        DiskFullError: a result cannot be written for lack of room. All that is done by then is kept.
    """
    one = partial(_one, places, options, options.digest(), inpainter, manifest)
    full: OSError | None = None
    with ThreadPoolExecutor(jobs, initializer=partial(torch.set_num_threads, threads)) as pool:
        waiting = iter(pairs)
        running: dict[Future[Entry | None], Pair] = {}
        while True:
            while len(running) < jobs and not stop.is_set() and (pair := next(waiting, None)) is not None:
                running[pool.submit(one, pair)] = pair
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                pair = running.pop(future)
                try:
                    ended(pair, future.result())
                except OSError as error:
                    full = error
                    stop.set()
    if full is not None:
        raise DiskFullError(
            f"cannot write to {places.outputs}: {reason(full)}; mend that, and give the same command again to go on"
        )


def remove_unfinished(pairs: Iterable[Pair], outputs: Path) -> None:
    """Removes what a killed run has left of files that it was writing."""
    for folder in {(outputs / pair.output).parent for pair in pairs}:
        for path in folder.glob(f".inpaint-{UNFINISHED}*.tmp"):
            path.unlink(missing_ok=True)


def _one(
    places: Places, options: Options, digest: bytes, inpainter: Fills, manifest: Manifest, pair: Pair
) -> Entry | None:
    """Fills one photograph, unless it was done before. OSError where there is no room for its result."""
    entry = step.fill(
        pair,
        places,
        options,
        digest,
        inpainter,
        is_done=lambda key: manifest.is_done(pair.photograph, key, places.outputs / pair.output),
    )
    if entry is not None:
        manifest.add(entry)
    return entry
