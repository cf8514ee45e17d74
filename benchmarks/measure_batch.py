"""Measures jobs that bench_batch.py sends: filling a folder of photographs, in a process of its own.

A job: {"engine", "jobs", "folder"}: folder has photos/, masks/ and room for out/. The time of each photograph is when
its entry was in the manifest. Memory is the sum of what this process and its descendants hold, shared pages divided
among those that share them (Linux: Pss), read twice a second.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import machine
import torch
from measure import answer_jobs

import inpaint
from inpaint import memory
from inpaint.batch import local
from inpaint.batch.manifest import NAME, Manifest
from inpaint.batch.pairs import Pairing, files_in, pair
from inpaint.batch.side_by_side import SideBySide
from inpaint.batch.task import Options
from inpaint.threads import available_processors

INTERVAL = 0.5  # seconds between two readings of memory
TICK = os.sysconf("SC_CLK_TCK")


class Tree(threading.Thread):
    """Watches this process and its descendants: the most memory, and the seconds of processor that they used."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self.used: dict[int, float] = {}
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(INTERVAL):
            self.read()

    def read(self) -> None:
        held = 0
        for process in family():
            try:
                held += _pss(process)
                fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            self.used[process] = (int(fields[11]) + int(fields[12])) / TICK
        self.most = max(self.most, held)

    def stop(self) -> None:
        self._over.set()
        self.join()
        self.read()


def family() -> list[int]:
    """This process and all its descendants."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(path.name))
    found = [os.getpid()]
    for process in found:
        found += children.get(process, [])
    return found


def _pss(process: int) -> int:
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024 * int(line.split()[1])
    return 0


def measure(job: dict[str, Any]) -> dict[str, Any]:
    folder = Path(job["folder"])
    photos, masks, out = folder / "photos", folder / "masks", folder / "out"
    out.mkdir()
    pairing = pair(files_in(photos), files_in(masks))
    ends: list[float] = []
    failed: list[str] = []

    def ended(pair: Any, entry: Any) -> None:
        ends.append(time.perf_counter())
        if entry is None or entry.error is not None:
            failed.append(f"{pair.photograph}: {entry and entry.error}")

    tree, start, before = Tree(), time.perf_counter(), machine.processor_seconds()
    tree.start()
    with Manifest(out / NAME) as manifest:
        run = on_ray if job["engine"] == "ray" else here
        at_once = run(pairing, folder, job["jobs"], manifest, ended)
    seconds, used = time.perf_counter() - start, machine.processor_seconds() - before
    tree.stop()
    if failed:
        raise ValueError(f"expected all photographs to be filled, got {failed[0]}")
    first_round = ends[min(at_once, len(ends) - 1) - 1]
    return {
        "at_once": at_once,
        "seconds": seconds,
        "start_seconds": ends[0] - start,
        "steady_photographs": len(ends) - at_once,
        "steady_seconds": ends[-1] - first_round,
        "memory": tree.most,
        "others": max(0.0, used - sum(tree.used.values())) / (seconds * (os.cpu_count() or 1)),
        "output_bytes": sum((out / each.output).stat().st_size for each in pairing.pairs),
    }


def here(pairing: Pairing, folder: Path, jobs: int | None, manifest: Manifest, ended: local.Ended) -> int:
    """As ``inpaint batch`` does it."""
    jobs = jobs or available_processors()
    limit = memory.SHARE * memory.free_memory(torch.device("cpu"))
    inpainter = SideBySide(inpaint.load(device="cpu", max_memory=limit), limit, jobs)
    places = local.Places(folder / "photos", folder / "out", folder / "masks")
    threads = max(1, available_processors() // jobs)
    local.run(
        pairing.pairs,
        places,
        Options(),
        inpainter,
        manifest,
        jobs=jobs,
        threads=threads,
        stop=threading.Event(),
        ended=ended,
    )
    return jobs


def on_ray(pairing: Pairing, folder: Path, jobs: int | None, manifest: Manifest, ended: local.Ended) -> int:
    """As ``inpaint batch --engine ray`` does it, Ray's start included."""
    from inpaint.batch import ray_engine
    from inpaint.batch.folder import LocalFolder

    places = ray_engine.Places(*(LocalFolder(folder / name) for name in ("photos", "out", "masks")))
    with ray_engine.cluster(None):
        workers = ray_engine.plan("cpu", jobs, None, len(pairing.pairs))
        ray_engine.run(pairing.pairs, places, Options(), workers, manifest, stop=threading.Event(), ended=ended)
    return workers.count


if __name__ == "__main__":
    answer_jobs(measure)
