"""Measures jobs that bench_match.py sends, one line of JSON each, in a process of its own; answers in the same way.

A process of its own, so that the high-water mark of its memory is the job's, and a job that runs
out of memory or breaks the GPU's context takes no other with it.

A job: {"rival", "case", "size", "kind", "device", "settings" (null: find the fastest), "seconds", "picks"}: case is a
file of cases.Case, picks the file to write the choice to. {"peak": "float32", "device", "seconds"} measures a square
product.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
from cases import Case
from rivals import RIVALS
from rivals.gemm import peak_run

MOST_ROUNDS = 200
SINGLE_RUN = 5.0  # seconds from which on one run has to do
L2_BYTES = 128 << 20  # more than the L2 cache of a GPU holds: inputs take turns until none of them is there any more


def main() -> None:
    with torch.inference_mode():
        answer_jobs(lambda job: measure_peak(job) if "peak" in job else measure(job))


def answer_jobs(measure: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer the jobs on stdin, one line each, until there are no more."""
    # What libraries print goes to stderr; the answers have the original stdout to themselves.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            answer = measure(json.loads(line))
        except Exception as error:  # whatever a rival dies of is its result
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate" in first_line
            answer = {"skipped": ("does not fit: " if out_of_memory else "failed: ") + first_line[:300]}
        print(json.dumps(answer), file=answers, flush=True)


def measure_peak(job: dict[str, Any]) -> dict[str, Any]:
    run, operations = peak_run(job["device"], getattr(torch, job["peak"]))
    return {"tflops": operations / min(time_runs([run], job["device"], job["seconds"])) / 1e12}


def measure(job: dict[str, Any]) -> dict[str, Any]:
    device, rival = job["device"], RIVALS[job["rival"]]
    cuda = device == "cuda"
    case = Case.load(Path(job["case"]), job["size"], job["kind"]).to(device)
    case.queries, case.keys  # noqa: B018  # computed once, before memory is counted
    choices = [job["settings"]] if job["settings"] is not None else rival.settings(device)
    available = free_memory(device)
    fitting = [settings for settings in choices if rival.memory(case, **settings) < 0.9 * available]
    if not fitting:
        needed = min(rival.memory(case, **settings) for settings in choices)
        return {"skipped": f"does not fit: needs about {needed / 2**30:.1f} GiB, {available / 2**30:.1f} are free"}
    settings = fitting[0] if len(fitting) == 1 else fastest(rival, case, fitting, device)

    # Code is loaded before memory is counted.
    if cuda:
        rival.prepare(case, **settings)()
    else:
        rival.prepare(tiny_case(case), **settings)()
    before = reset_peak(device)
    run = rival.prepare(case, **settings)
    start = time.perf_counter()
    picks = run()
    first = time.perf_counter() - start
    peak = peak_memory(device) - before
    if picks is not None:
        picks = picks[case.query_mask[0]] if picks.dim() == 2 else picks
        torch.save(picks.cpu(), job["picks"])
        del picks

    runs = [run]
    if cuda:
        size = case.features.numel() * case.features.element_size()
        runs += [rival.prepare(case.clone(), **settings) for _ in range(min(31, L2_BYTES // size))]
    times = [first] if not cuda and first > SINGLE_RUN else time_runs(runs, device, job["seconds"])
    result = {
        "settings": settings,
        "times": times,
        "peak_memory": peak,
        "operations": rival.operations(case),
        "traffic": rival.traffic(case),
        **rival.notes(),
    }
    del runs, run
    gc.collect()
    return result


def tiny_case(case: Case) -> Case:
    hole = torch.zeros(1, 16, 16, dtype=torch.bool, device=case.hole.device)
    hole[:, 6:10, 6:10] = True
    return Case("tiny", case.kind, case.features[:, :, :16, :16].contiguous(), hole)


def fastest(rival: Any, case: Case, choices: list[dict[str, Any]], device: str) -> dict[str, Any]:
    """The settings with the shorter time of two runs after one."""
    times = []
    for settings in choices:
        times.append(min(time_runs([rival.prepare(case, **settings)], device, 0.0, fewest=2)))
        gc.collect()
    return choices[times.index(min(times))]


def time_runs(runs: list[Callable[[], Any]], device: str, seconds: float, fewest: int = 3) -> list[float]:
    """Seconds of each of many runs, after one that is not counted; `runs` do the same on copies and take turns.

    As many as fit into `seconds`, but at least `fewest`.
    """
    if device == "cuda":
        return _time_on_gpu(runs, seconds, fewest)
    start = time.perf_counter()
    runs[0]()
    first = time.perf_counter() - start
    times = []
    for number in range(max(fewest, min(MOST_ROUNDS, int(seconds / max(first, 1e-6))))):
        start = time.perf_counter()
        runs[number % len(runs)]()
        times.append(time.perf_counter() - start)
    return times


def _time_on_gpu(runs: list[Callable[[], Any]], seconds: float, fewest: int) -> list[float]:
    """Device time between two events around each run, host launches included where the device waits for them."""
    for run in runs:  # warm-up: every copy
        run()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    runs[0]()
    end.record()
    torch.cuda.synchronize()
    first = max(start.elapsed_time(end) / 1e3, 1e-6)
    rounds = max(fewest, min(MOST_ROUNDS, int(seconds / first)))
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(rounds)]
    for number, (start, end) in enumerate(events):
        start.record()
        runs[number % len(runs)]()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in events]


def free_memory(device: str) -> float:
    """Bytes that can still be taken."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024.0 * int(line.split()[1])
    raise OSError("found no MemAvailable in /proc/meminfo")


def reset_peak(device: str) -> int:
    """Forget the high-water mark; returns the bytes in use now."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM becomes VmRSS
    return _status("VmRSS")


def peak_memory(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else _status("VmHWM")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"found no {field} in /proc/self/status")


if __name__ == "__main__":
    main()
