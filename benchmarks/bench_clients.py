"""What other projects do with patches, in plain torch and with patchswap, side by side in one run.

    python benchmarks/bench_clients.py --out benchmarks/results/clients-cpu.json
    python benchmarks/bench_clients.py --device cuda --out benchmarks/results/clients-cuda.json

clients.py has the five uses. Every form runs in a process of its own, ours before and after the plain one, so that what
disturbs the machine counts on both sides; times are medians. Results of the two forms are compared: the share of values
that differ by less than a thousandth of the largest one, as an arg-max may flip between keys that score the same up to
rounding.

Memory is the high-water mark beyond the inputs, results included. Beside it stands the floor, below which no form can
be: the results, or for a step of training the step around an operation that computes nothing. On the CPU the mark is
that of the process, with what malloc keeps of blocks that were freed. "held" is the mark of a second run in which
malloc gives such blocks back at once, as the count of torch on CUDA leaves them out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import machine
import torch
from bench_match import write
from clients import USES
from measure import peak_memory, reset_peak, time_runs
from torch import Tensor

SAME = 1e-3  # of the largest value
SMALL_SIDE = 64  # of the pictures with which code is loaded
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": str(128 << 10)}  # glibc: blocks from this size on are mapped apart


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--uses", default=",".join(USES), help=f"comma-separated, of {', '.join(USES)}")
    parser.add_argument("--side", type=int, default=256, help="of the pictures in pixels, a multiple of 32")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each run of a form")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--job", nargs=2, metavar=("FORM", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.uses = arguments.uses.split(",")
    if unknown := [name for name in arguments.uses if name not in USES]:
        parser.error(f"--uses: expected names of {', '.join(USES)}; got {', '.join(unknown)}")
    if arguments.side < 2 * SMALL_SIDE or arguments.side % 32:
        parser.error(f"--side: expected a multiple of 32 from {2 * SMALL_SIDE} on; got {arguments.side}")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    if arguments.job:
        form, file = arguments.job
        print(json.dumps(measure(arguments.uses[0], form, arguments.device, arguments.side, arguments.seconds, file)))
        return 0
    command = machine.command_line("benchmarks/bench_clients.py")
    content: dict[str, Any] = {"machine": machine.describe(arguments.device, command), "results": []}
    for name in arguments.uses:
        row = compare(name, arguments)
        content["results"].append(row)
        print(json.dumps(row), flush=True)
        if arguments.out:
            write(arguments.out, content)
    return 0


def compare(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The row of one use."""
    with tempfile.TemporaryDirectory() as folder:

        def run(form: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
            return in_own_process(name, form, str(Path(folder) / form), arguments, environment)

        before, plain, after = (run(form) for form in ("ours", "plain", "ours"))
        results = {form: torch.load(Path(folder) / form) for form in ("ours", "plain")}
        runs = {"ours": before, "plain": plain}
        if USES[name].floor is not None:
            runs["floor"] = run("floor")
        held = {form: run(form, GIVES_BACK) for form in runs} if arguments.device == "cpu" else {}
    seconds = {"ours": statistics.median(before["times"] + after["times"]), "plain": statistics.median(plain["times"])}
    size = sum(each.numel() * each.element_size() for each in results["plain"])
    return {
        "use": name,
        "source": USES[name].source,
        "side": arguments.side,
        "ours_ms": round(1e3 * seconds["ours"], 3),
        "plain_ms": round(1e3 * seconds["plain"], 3),
        "times_ours": round(seconds["plain"] / seconds["ours"], 2),
        **memory_of(runs, size),
        **({"held": memory_of(held, size)} if held else {}),
        **agreement(results["ours"], results["plain"]),
    }


def memory_of(runs: dict[str, dict[str, Any]], size: int) -> dict[str, float]:
    """Peaks of all forms, and of the plain one how many times ours. size: of the results, the floor without a step."""
    peaks = {"floor": size} | {form: run["peak_memory"] for form, run in runs.items()}
    return {
        **{f"{form}_memory_mib": round(peaks[form] / 2**20, 1) for form in ("ours", "plain", "floor")},
        "memory_times_ours": round(peaks["plain"] / max(peaks["ours"], 1), 2),
    }


def agreement(ours: list[Tensor], plain: list[Tensor]) -> dict[str, float]:
    """The least share of equal values, and the largest difference relative to the largest value, of all results."""
    shares, differences = [], []
    for one, other in zip(ours, plain, strict=True):
        difference = (one - other).abs() / other.abs().max().clamp(min=torch.finfo(other.dtype).tiny)
        shares.append(float((difference < SAME).double().mean()))
        differences.append(float(difference.max()))
    return {"same_percent": round(100 * min(shares), 3), "largest_difference": max(differences)}


def in_own_process(
    name: str, form: str, file: str, arguments: argparse.Namespace, environment: dict[str, str] | None = None
) -> dict[str, Any]:
    """Measurements of one form; those with an environment of their own are for memory, and their times are short."""
    seconds = 0.0 if environment else arguments.seconds
    options = ["--device", arguments.device, "--uses", name, "--side", str(arguments.side)]
    command = [sys.executable, __file__, *options, "--seconds", str(seconds), "--job", form, file]
    variables = {**os.environ, **(environment or {})}
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=variables).stdout)


def measure(name: str, form: str, device: str, side: int, seconds: float, file: str) -> dict[str, Any]:
    """Times and the peak of memory of one form, whose results go into a file."""
    torch.backends.cudnn.allow_tf32 = False
    use = USES[name]
    run = getattr(use, form)
    small, inputs = (
        {key: each.clone().to(device) for key, each in use.inputs(size).items()} for size in (SMALL_SIDE, side)
    )
    run(small)  # code is loaded
    before = reset_peak(device)
    results = run(inputs)
    memory = peak_memory(device) - before
    torch.save([each.detach().cpu() for each in results], file)
    del results
    return {"peak_memory": memory, "times": time_runs([lambda: run(inputs)], device, seconds)}


if __name__ == "__main__":
    sys.exit(main())
