"""Fills many photographs on a Ray cluster, with Ray Data.

Each worker, an actor on one GPU or on some processors, loads the networks once and takes photographs from their files
to the files of their results (``inpaint.batch.step``). What Ray carries are names and entries of the manifest, never
pixels, so that memory is bounded by what the workers work on. The process that runs this alone writes the manifest.

Ray gives the work of a worker that died to another one. A ledger, an actor of its own, counts how often each photograph
was begun: one that ends its worker again and again is called failed. The ledger keeps what became of a photograph until
the manifest has it, so that nothing is filled twice.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import ray
import ray.data
import torch

import inpaint
from inpaint import memory, weights
from inpaint.batch import step, task
from inpaint.batch.folder import Folder
from inpaint.batch.local import DiskFullError, Ended
from inpaint.batch.manifest import Entry, Manifest
from inpaint.batch.pairs import Pair
from inpaint.batch.task import Fills, Given, Options
from inpaint.batch.together import Together
from inpaint.codec import reason
from inpaint.errors import InpaintError
from inpaint.threads import available_processors
from patchswap import build_info, ops

MOST_TRIES = 3  # of a photograph whose worker died
PHOTOGRAPHS_OF_A_GPU = 16  # at once, by default
_MOST_ROWS = 16  # photographs that a worker is given in one go
_ROUNDS = 50  # goes of each worker, at least
_STORE = 100 << 20  # bytes of Ray's object store, which holds names only
_NOT_BEGUN, _DONE_BEFORE, _NO_ROOM = "not begun", "done before", "no room"


@dataclass(frozen=True)
class Places:
    """Folders of the photographs, of their masks and of the results; or one mask for all photographs."""

    photographs: Folder
    outputs: Folder
    masks: Folder | None = None
    mask: task.File | None = None

    def read(self, pair: Pair) -> Given:
        mask = self.mask
        if pair.mask is not None and self.masks is not None:
            mask = _file(self.masks, pair.mask)
        return Given(_file(self.photographs, pair.photograph), mask, pair.output)

    def write(self, pair: Pair, content: bytes) -> None:
        self.outputs.write(pair.output, content)


def _file(folder: Folder, name: str) -> task.File:
    return task.File(f"{folder}/{name}", folder.read(name))


@dataclass(frozen=True)
class Workers:
    """How many workers there are, and the GPUs, processors and photographs at once of each."""

    count: int
    gpus: int
    processors: int
    photographs: int


@contextmanager
def cluster(address: str | None, processors: int | None = None) -> Iterator[None]:
    """Connects to a Ray cluster, or starts Ray on this machine with so many processors, by default all. A connection of
    this process that exists already is used as it is.

    Raises:
        InpaintError: there is no such cluster, or Ray does not start.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local = {
        "num_cpus": processors or available_processors(),
        "object_store_memory": _STORE,
        "include_dashboard": False,
    }
    try:
        with _in_folder("/"):  # Ray has workers import from this process's folder first, which may be a checkout
            ray.init(
                address or "local",
                logging_level=logging.ERROR,
                log_to_driver=False,
                **({} if address else local),  # type: ignore[arg-type]
            )
    except Exception as error:  # Ray raises errors of many types
        what = f"found no Ray cluster at {address}" if address else "Ray did not start on this machine"
        raise InpaintError(f"{what} ({_first_line(error)}); give another --address, or use --engine local") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _in_folder(folder: str) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def plan(device: str, jobs: int | None, processors: int | None, photographs: int) -> Workers:
    """The workers for the cluster that this process is connected to.

    Args:
        device: "cpu", "cuda", or "auto", which is "cuda" where the cluster has GPUs.
        jobs: photographs at once, by default one for each processor, or 16 for each GPU.
        processors: at most, by default all of the cluster's.
        photographs: that there are to fill.

    Raises:
        InpaintError: no GPU, or no machine with so many processors.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    largest = int(max((node.get("CPU", 0) for node in nodes), default=0))
    everywhere = int(sum(node.get("CPU", 0) for node in nodes))
    processors = min(processors or everywhere, everywhere)
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if device == "cuda" and not gpus:
        raise InpaintError("device: expected a Ray cluster with GPUs, found none; use --device cpu")
    if device != "cpu" and gpus:
        count = max(1, min(gpus, jobs or gpus, photographs))
        at_once = max(1, (jobs or PHOTOGRAPHS_OF_A_GPU * gpus) // count)
        return Workers(count, 1, max(1, min(at_once, processors // gpus)), at_once)
    count = max(1, min(jobs or processors, photographs))
    of_each = max(1, processors // count)
    if of_each > largest:
        raise InpaintError(
            f"a worker would have {of_each} processors, and the largest machine of the cluster has {largest}; "
            "give more --jobs or fewer --threads"
        )
    return Workers(count, 0, of_each, 1)


def load(options: Options, workers: Workers) -> Fills:
    """What fills in a worker: on its GPU, or on its processors with as large a share of the machine's memory."""
    if workers.gpus:
        inpainter = inpaint.load(options.weights, "cuda", precision=options.precision, max_memory=options.max_memory)
        return Together(inpainter, workers.photographs)
    share = min(1.0, workers.processors / available_processors())
    limit = options.max_memory or memory.SHARE * memory.free_memory(torch.device("cpu")) * share
    return inpaint.load(options.weights, "cpu", precision=options.precision, max_memory=limit)


def run(
    pairs: Sequence[Pair],
    places: Places,
    options: Options,
    workers: Workers,
    manifest: Manifest,
    *,
    stop: threading.Event,
    ended: Ended,
    load: Callable[[Options, Workers], Fills] = load,
) -> None:
    """Fills all photographs that the manifest does not call done.

    Args:
        pairs: the photographs.
        places: where their files are, and where results go; every machine of the cluster reaches them.
        options: how they are filled.
        workers: from ``plan``.
        manifest: of the folder of results.
        stop: once it is set, no further photograph is begun, and those at work are finished.
        ended: called for each photograph in turn, in this thread, with its new entry in the manifest, or None where it
            was done before.
        load: what fills, called once in each worker.

    Raises:
        DiskFullError: a result cannot be written for lack of room. All that is done by then is kept.
        InpaintError: Ray cannot go on.
    """
    if not pairs:
        return
    if options.weights not in weights.named():
        options = replace(options, weights=str(Path(options.weights).absolute()))
    ledger: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Ledger).remote()
    arguments = (places, options, options.digest(), workers, ledger, load, ops.extension is not None)
    waiting = {pair.photograph: pair for pair in pairs}
    full = None
    over = threading.Event()
    watch = threading.Thread(target=_pass_on, args=(stop, over, ledger), daemon=True)
    watch.start()
    try:
        for row in _rows(pairs, manifest, workers, arguments):
            pair = waiting.pop(row["photograph"])
            if row["became"] == _NO_ROOM:
                full = row["line"]
                stop.set()
            elif row["became"] != _NOT_BEGUN:
                entry = Entry.parse(row["line"]) if row["line"] else None
                if entry is not None:
                    manifest.add(entry)
                ended(pair, entry)
            ledger.received.remote(row["photograph"])
            if stop.is_set() and ray.get(ledger.is_idle.remote()):
                break
    except OSError as error:  # of the manifest
        full = reason(error)
    except ray.exceptions.RayError as error:
        raise InpaintError(f"Ray ended the run: {_first_line(error)}; give the same command again to go on") from error
    finally:
        over.set()
        watch.join()
        ray.kill(ledger)
    if full is not None:
        raise DiskFullError(
            f"cannot write to {places.outputs}: {full}; mend that, and give the same command again to go on"
        )


def _rows(
    pairs: Sequence[Pair], manifest: Manifest, workers: Workers, arguments: tuple[Any, ...]
) -> Iterator[dict[str, Any]]:
    """What becomes of the photographs, as it becomes known."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    given = [
        {"pair": json.dumps(asdict(pair)), "known": "" if entry is None else entry.line()}
        for pair in pairs
        for entry in [manifest.entry(pair.photograph)]
    ]
    goes = len(given) // (_ROUNDS * workers.count * workers.photographs)
    rows = max(1, min(goes, _MOST_ROWS))
    data = ray.data.from_items(given, override_num_blocks=-(-len(given) // rows))
    pool = ray.data.ActorPoolStrategy(
        size=workers.count,
        max_tasks_in_flight_per_actor=2 * workers.photographs,
        max_concurrent_calls_per_actor=workers.photographs,
        enable_true_multi_threading=workers.photographs > 1,
    )
    filled = data.map(
        cast(Any, _Worker),
        fn_constructor_args=arguments,
        compute=pool,
        num_cpus=workers.processors,
        num_gpus=workers.gpus,
    )
    return iter(filled.iter_rows())


class _Worker:
    """An actor that fills photographs, one a call."""

    def __init__(
        self,
        places: Places,
        options: Options,
        digest: bytes,
        workers: Workers,
        ledger: Any,
        load: Callable[[Options, Workers], Fills],
        has_library: bool,
    ) -> None:
        self._places, self._options, self._digest = places, options, digest
        self._ledger = ledger
        self._processors = workers.processors
        torch.set_num_threads(self._processors)
        _check_library(has_library)
        self._inpainter = load(options, workers)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        torch.set_num_threads(self._processors)  # of this thread
        pair = Pair(**json.loads(row["pair"]))
        tries, became = ray.get(self._ledger.begin.remote(pair.photograph))
        if became is None and tries == 0:
            return _row(pair, _NOT_BEGUN)
        if became is None:
            became = self._fill(pair, row["known"], tries)
            ray.get(self._ledger.end.remote(pair.photograph, became))
        return became

    def _fill(self, pair: Pair, known: str, tries: int) -> dict[str, Any]:
        if tries > MOST_TRIES:
            error = (
                f"the process that filled it ended {MOST_TRIES} times, for lack of memory perhaps; "
                "use smaller --scales, fewer --jobs, or a smaller picture"
            )
            return _row(pair, "", Entry(pair.photograph, "", error=error))
        before = Entry.parse(known) if known else None

        def is_done(key: str) -> bool:
            return before is not None and before.names(key, self._places.outputs.size(pair.output))

        try:
            entry = step.fill(pair, self._places, self._options, self._digest, self._inpainter, is_done=is_done)
        except OSError as error:
            return {**_row(pair, _NO_ROOM), "line": reason(error)}
        return _row(pair, _DONE_BEFORE if entry is None else "", entry)


def _check_library(expected: bool) -> None:
    """InpaintError where this process lacks the compiled library that the one which began the run has."""
    if expected and ops.extension is None:
        found = build_info()
        raise InpaintError(
            f"{socket.gethostname()}: expected the compiled library of patchswap, found none "
            f"({found['extension_cause']}); install the same package on every machine"
        )


def _row(pair: Pair, became: str, entry: Entry | None = None) -> dict[str, Any]:
    return {"photograph": pair.photograph, "became": became, "line": "" if entry is None else entry.line()}


class _Ledger:
    """Which photographs were begun, and what became of those that the manifest does not have yet."""

    def __init__(self) -> None:
        self._tries: dict[str, int] = {}
        self._became: dict[str, dict[str, Any]] = {}
        self._is_stopped = False

    def begin(self, photograph: str) -> tuple[int, dict[str, Any] | None]:
        """How often it was begun, this time included, or 0 where it is not to be begun; what became of it."""
        if photograph in self._became:
            return self._tries[photograph], self._became[photograph]
        if self._is_stopped and photograph not in self._tries:
            return 0, None
        self._tries[photograph] = self._tries.get(photograph, 0) + 1
        return self._tries[photograph], None

    def end(self, photograph: str, became: dict[str, Any]) -> None:
        self._became[photograph] = became

    def received(self, photograph: str) -> None:
        self._tries.pop(photograph, None)
        self._became.pop(photograph, None)

    def stop(self) -> None:
        self._is_stopped = True

    def is_idle(self) -> bool:
        return not self._tries


def _pass_on(stop: threading.Event, over: threading.Event, ledger: Any) -> None:
    """Tells the ledger that no photograph is to be begun, as soon as that is so."""
    while not over.is_set():
        if stop.wait(0.1):
            ray.get(ledger.stop.remote())
            return


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
