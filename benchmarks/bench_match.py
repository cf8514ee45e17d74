"""patchswap.match against every other way to do it, side by side in one run.

    python benchmarks/bench_match.py --device cpu --out results.json --plot times.png

Prints a table for each size, and writes everything as JSON. The sizes and features are those of cases.py; the rivals
are in rivals/, each measured with the fastest of its settings. Every time covers the whole work from float32 features
and masks to the chosen keys, but for the limits, which are the GEMM alone. On the CPU each rival runs in a process of
its own.

Rivals that do not fit into memory or into the time budget are listed with that reason; nothing is extrapolated. Every
size has its share of the budget, and rivals are measured from the shortest to the longest, so that a slow one does not
keep a fast one or a later size from being measured. Ours comes first, and once more at the end of every size.

Exit status 1: a rival that should find the arg-max has found another key, or one with a better score than ours.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import machine
import torch
from cases import PATCH_SIZE, SPECTRA, Case, make_case, parse_size
from plot import draw
from rivals import RIVALS
from rivals.rival import Rival
from torch import Tensor

SIZES = {
    "cpu": ["256/112", "512/224", "512/thin", "1024/512", "1024/thin", "2048/512"],
    "cuda": ["256/112", "512/224", "512/thin", "1024/512", "1024/thin", "2048/512", "4096/1024"],
}
RANDOM_SIZES = ("512/224", "1024/512")
SPECTRUM_SIZES = ("512/224",)  # measured with our own forms only
ONLY_OURS = 4000  # from this side on
SECONDS_PER_RIVAL = {"cpu": 1.5, "cuda": 0.4}
START_SECONDS = {"cpu": 5.0, "cuda": 0.5}  # to start a process, load the case and warm up
TUNING_SECONDS = 8.0  # longest time for trying settings; beyond it those of the last size are taken over
SHARES = {256: 2.0, 512: 3.0, 1024: 4.0, 2048: 2.0, 4096: 1.0}  # of the time budget, by the side of the picture
SCORE_TOLERANCE = 1e-5  # of the score of two keys that may both be called the best
REFERENCE = "ours"
COLUMNS = {  # of the table on the screen
    "median_ms": "median ms",
    "p95_ms": "p95",
    "times_ours": "x ours",
    "direct_tflops": "direct",
    "executed_tflops": "executed",
    "percent_of_gemm_peak": "% peak",
    "gigabytes_per_second": "GB/s",
    "peak_memory_mib": "MiB",
    "same_picks": "same",
    "worst_gap": "gap",
}


class Worker:
    """A process of measure.py, or of another program that answers in the same way."""

    def __init__(self, program: str = "measure.py") -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # lives as long as the process
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(program))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def ask(self, job: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer to a job; after `seconds` the process is stopped and cannot be asked again."""
        assert self.process.stdin and self.process.stdout
        try:
            print(json.dumps(job), file=self.process.stdin, flush=True)
            if not select.select([self.process.stdout], [], [], seconds)[0]:
                self.stop()
                return {"skipped": f"over the time budget: stopped after {seconds:.0f} s"}
            if line := self.process.stdout.readline():
                return json.loads(line)
        except BrokenPipeError:
            pass
        code = self.process.wait()
        self.errors.seek(0)
        last = self.errors.read().strip().splitlines()[-1:] or ["no message"]
        return {"skipped": "does not fit: stopped by the system" if code == -9 else f"failed, exit {code}: {last[0]}"}

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Bench:
    """One run: what has been measured so far, and what is left of the time."""

    device: str
    budget: float
    folder: Path
    peaks: dict[str, float] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    start: float = field(default_factory=time.monotonic)
    # Of each rival: seconds of a run, operations and settings of the last case it was measured on.
    last: dict[str, tuple[float, float, dict[str, Any]]] = field(default_factory=dict)
    worker: Worker | None = None
    deadline: float = 0.0

    @property
    def left(self) -> float:
        """Seconds until the budget is used up."""
        return self.start + self.budget - time.monotonic()

    @property
    def left_for_case(self) -> float:
        return self.deadline - time.monotonic()

    def ask(self, job: dict[str, Any], expected: float = 0.0) -> dict[str, Any]:
        """On the CPU a new process for each job, so that its peak memory can be told; stopped where it takes too long.

        Too long: more than what is left for the case and more than thrice the seconds that are expected.
        """
        if self.worker is None or not self.worker.alive:
            self.worker = Worker()
        job = {**job, "device": self.device, "seconds": SECONDS_PER_RIVAL[self.device]}
        answer = self.worker.ask(job, max(30.0, 1.5 * self.left_for_case, 3.0 * expected))
        if self.device == "cpu" or "skipped" in answer:  # what has failed may have broken the GPU's context
            self.worker.stop()
        return answer

    def measure_peaks(self) -> None:
        """The best of all times that this is called."""
        for dtype in ("float32", "bfloat16"):
            measured = self.ask({"peak": dtype}).get("tflops", 0.0)
            self.peaks[dtype] = max(measured, self.peaks.get(dtype, 0.0))
        print("GEMM peak, TFLOP/s: " + ", ".join(f"{name} {value:.3g}" for name, value in self.peaks.items()))

    def measure_case(self, case: Case, names: list[str], share: float) -> None:
        """Measure the rivals on one case with this share of the time that is left."""
        self.deadline = time.monotonic() + share * self.left
        file = self.folder / "case.safetensors"
        case.save(file)
        job = {"case": str(file), "size": case.size, "kind": case.kind}
        reference_picks, entries = None, []
        for name in sorted(names, key=lambda name: self.place(name, case)):
            rival, picks = RIVALS[name], self.folder / f"{name}.pt"
            picks.unlink(missing_ok=True)
            answer = self.refuse(rival, case)
            if answer is None:
                settings = self.settings_to_keep(rival, case)
                question = {**job, "rival": name, "settings": settings, "picks": str(picks)}
                answer = self.ask(question, self.predict(name, case))
            if "times" in answer:
                seconds = statistics.median(answer["times"])
                self.last[name] = (seconds, _work(rival, case), answer["settings"])
            entry = {
                **_head(case),
                "rival": name,
                "label": rival.label,
                "group": rival.group,
                "exact": rival.exact,
                **answer,
            }
            if picks.exists():
                chosen = torch.load(picks, weights_only=True)
                reference_picks = chosen if name == REFERENCE else reference_picks
                if reference_picks is not None:
                    entry.update(compare(chosen, reference_picks, case))
                    self.judge(rival, entry)
            entries.append(entry)
        reference = None
        if entries and entries[0]["rival"] == REFERENCE and "times" in entries[0]:
            if len(entries) > 1 and self.predict(REFERENCE, case) < max(10.0, self.left_for_case):
                again = self.ask({**job, "rival": REFERENCE, "settings": {}, "picks": str(self.folder / "again.pt")})
                entries[0]["median_ms_at_the_end"] = _round(1e3 * statistics.median(again.get("times", [float("nan")])))
                entries[0]["times"] += again.get("times", [])
            reference = statistics.median(entries[0]["times"])
        self.results += [self.summary(entry, reference) for entry in entries]
        file.unlink()

    def place(self, name: str, case: Case) -> tuple[float, ...]:
        """Sorts ours, first patchswap.match itself, before the others, and the shorter before the longer."""
        return (name != REFERENCE, RIVALS[name].group != "ours", self.predict(name, case))

    def refuse(self, rival: Rival, case: Case) -> dict[str, Any] | None:
        """Why a rival is not started, if it is not."""
        if reason := rival.unavailable(self.device):
            return {"skipped": f"not here: {reason}"}
        if rival.dtype == torch.bfloat16 and self.device == "cpu" and not torch.cpu._is_avx512_bf16_supported():
            return {"skipped": "not here: this processor does not multiply bfloat16, which makes it many times slower"}
        predicted = self.predict(rival.name, case)
        if predicted > self.left_for_case and rival.name != REFERENCE:
            left = max(0.0, self.left_for_case)
            return {"skipped": f"over the time budget: needs about {predicted:.0f} s, {left:.0f} s are left"}
        return None

    def predict(self, name: str, case: Case) -> float:
        """Seconds that measuring a rival will take, by its speed on the last case."""
        rival = RIVALS[name]
        trial = self.trial_seconds(rival, case) if self.settings_to_keep(rival, case) is None else 0.0
        run = self.run_seconds(rival, case)
        longest = max(run, SECONDS_PER_RIVAL[self.device])
        return START_SECONDS[self.device] + trial + 1.2 * longest

    def run_seconds(self, rival: Rival, case: Case) -> float:
        """How long a run takes: by the rival's speed on the last case, else by half the GEMM peak."""
        if rival.name in self.last:
            seconds, work, _ = self.last[rival.name]
            return seconds * _work(rival, case) / work
        peak = self.peaks.get(_name(rival.dtype)) or 1.0
        return 2 * _work(rival, case) / (1e12 * peak)

    def trial_seconds(self, rival: Rival, case: Case) -> float:
        """How long it takes to try all settings."""
        return 3 * len(rival.settings(self.device)) * self.run_seconds(rival, case)

    def settings_to_keep(self, rival: Rival, case: Case) -> dict[str, Any] | None:
        """None where there is time to try all; else the last case's fastest settings, or those that come first."""
        choices = rival.settings(self.device)
        if len(choices) > 1 and self.trial_seconds(rival, case) < TUNING_SECONDS:
            return None
        return self.last[rival.name][2] if rival.name in self.last else choices[0]

    def judge(self, rival: Rival, entry: dict[str, Any]) -> None:
        where = f"{entry['size']} {entry['features']}, {rival.name}"
        if rival.exact and entry["worst_gap"] > SCORE_TOLERANCE:
            self.failures.append(f"{where}: chose a key whose score is {entry['worst_gap']:.2g} below that of ours")
        if entry["best_gain"] > SCORE_TOLERANCE:
            self.failures.append(f"{where}: found a key whose score is {entry['best_gain']:.2g} above that of ours")

    def summary(self, entry: dict[str, Any], reference: float | None) -> dict[str, Any]:
        """What goes into the results, from the raw times; `reference` is the median of ours."""
        times = entry.pop("times", None)
        if times is None:
            return entry
        rival = RIVALS[entry["rival"]]
        operations, traffic = entry.pop("operations"), entry.pop("traffic")
        median = statistics.median(times)
        executed = None if operations is None else operations / median / 1e12
        peak = self.peaks.get(_name(rival.dtype))
        entry.update(
            median_ms=_round(1e3 * median),
            p95_ms=_round(1e3 * sorted(times)[min(len(times) - 1, int(0.95 * len(times)))]),
            fastest_ms=_round(1e3 * min(times)),
            runs=len(times),
            times_ours=_round(median / reference) if reference else None,
            picoseconds_per_pair=_round(1e12 * median / (entry["queries"] * entry["keys"])),
            direct_tflops=_round(2e-12 * entry["queries"] * entry["keys"] * entry["depth"] / median),
            executed_tflops=_round(executed),
            percent_of_gemm_peak=_round(100 * executed / peak) if executed and peak else None,  # so far
            gigabytes_per_second=_round(traffic / median / 1e9) if traffic else None,
            peak_memory_mib=_round(max(0, entry.pop("peak_memory")) / 2**20),
        )
        return entry


def compare(chosen: Tensor, reference: Tensor, case: Case) -> dict[str, Any]:
    """Share of equal choices, and how far scores are apart where they differ (float64, cosine)."""
    different = (chosen != reference).nonzero()[:, 0]
    queries = case.query_mask[0].cpu().flatten().nonzero()[:, 0]
    gaps = [torch.zeros(1, dtype=torch.float64)]
    for block in different.split(1024):
        query = patches_of(case, queries[block])
        gaps.append(cosine(query, patches_of(case, reference[block])) - cosine(query, patches_of(case, chosen[block])))
    gap = torch.cat(gaps)
    same = 1 - len(different) / max(1, len(queries))
    return {"same_picks": round(same, 6), "worst_gap": float(gap.max()), "best_gain": float(-gap.min())}


def patches_of(case: Case, numbers: Tensor) -> Tensor:
    """(n, C, 3, 3) float64 patches with these row-major numbers."""
    columns = case.key_mask.shape[2]
    numbers = numbers.to(case.features.device)
    windows = case.features[0].unfold(1, PATCH_SIZE, 1).unfold(2, PATCH_SIZE, 1)
    return windows[:, numbers // columns, numbers % columns].transpose(0, 1).double()


def cosine(left: Tensor, right: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(left.flatten(1), right.flatten(1), eps=1e-300).cpu()


def print_table(results: list[dict[str, Any]]) -> None:
    first = results[0]
    print(
        f"\n{first['size']} {first['features']}: {first['queries']} queries x {first['keys']} keys x {first['depth']}"
    )
    print(" " * 48 + "".join(f"{name:>10}" for name in COLUMNS.values()))
    for result in sorted(results, key=lambda result: result.get("median_ms", float("inf"))):
        if "skipped" in result:
            print(f"{result['label']:48}  {result['skipped']}")
            continue
        values = [result.get(name) for name in COLUMNS]
        print(f"{result['label']:48}" + "".join(f"{'' if value is None else f'{value:.4g}':>10}" for value in values))


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)


def _work(rival: Rival, case: Case) -> float:
    return rival.operations(case) or case.direct_operations


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _head(case: Case) -> dict[str, Any]:
    counts = {"queries": case.queries, "keys": case.keys, "hole_cells": int(case.hole.sum()), "depth": case.depth}
    return {"size": case.size, "features": case.kind, **counts}


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--sizes", help="such as 256/112,512/224,512/thin (default: all of the device)")
    parser.add_argument("--features", choices=("photo", "random", "spectrum", "all"), default="all")
    parser.add_argument("--methods", help=f"names out of {', '.join(RIVALS)}")
    parser.add_argument("--budget-seconds", type=float, default=600.0)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--plot", type=Path, help="picture to write")
    arguments = parser.parse_args()
    arguments.sizes = arguments.sizes.split(",") if arguments.sizes else SIZES[arguments.device]
    arguments.methods = arguments.methods.split(",") if arguments.methods else list(RIVALS)
    for size in arguments.sizes:
        try:
            parse_size(size)
        except ValueError as error:
            parser.error(str(error))
    if unknown := set(arguments.methods) - set(RIVALS):
        parser.error(f"--methods: expected names out of {', '.join(RIVALS)}; got {', '.join(sorted(unknown))}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no NVIDIA GPU; use --device cpu")
    return arguments


def plan(sizes: list[str], features: str) -> list[tuple[str, str]]:
    """(size, kind) in the order of measuring; of "all", other features than photographs' come last, at some sizes."""
    if features == "spectrum":
        return [(size, kind) for size in sizes for kind in SPECTRA]
    if features != "all":
        return [(size, features) for size in sizes]
    photographs = [(size, "photo") for size in sizes]
    random = [(size, "random") for size in RANDOM_SIZES if size in sizes]
    return photographs + random + [(size, kind) for size in SPECTRUM_SIZES if size in sizes for kind in SPECTRA]


def share_of(size: str, kind: str) -> float:
    """A weight: what part of the time budget a case is worth."""
    side, hole = parse_size(size)
    if kind in SPECTRA:
        return 0.1
    return SHARES.get(side, 1.0) * (0.5 if hole == "thin" or kind == "random" else 1.0)


def main() -> int:
    arguments = parse_arguments()
    content: dict[str, Any] = {
        "machine": machine.describe(arguments.device, machine.command_line("benchmarks/bench_match.py"))
    }
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments.device, arguments.budget_seconds, Path(folder))
        bench.deadline = bench.start + bench.budget
        bench.measure_peaks()
        content.update(gemm_peak_tflops=bench.peaks, results=bench.results)
        cases = plan(arguments.sizes, arguments.features)
        shares = [share_of(size, kind) for size, kind in cases]
        for number, (size, kind) in enumerate(cases):
            names = [name for name in arguments.methods if arguments.device in RIVALS[name].devices]
            if parse_size(size)[0] >= ONLY_OURS or kind in SPECTRA:
                names = [name for name in names if RIVALS[name].group == "ours"]
            if bench.left < START_SECONDS[arguments.device]:
                print(f"\n{size} {kind}: not measured, the time budget of {bench.budget:.0f} s is used up")
                continue
            before, share = len(bench.results), shares[number] / sum(shares[number:])
            with torch.inference_mode():
                bench.measure_case(make_case(size, kind, arguments.device), names, share)
            print_table(bench.results[before:])
            if arguments.out:
                write(arguments.out, content)
        bench.measure_peaks()
        for result in bench.results:
            if peak := bench.peaks.get(_name(RIVALS[result["rival"]].dtype)):
                executed = result.get("executed_tflops")
                result["percent_of_gemm_peak"] = _round(100 * executed / peak) if executed else None
        if bench.worker:
            bench.worker.stop()
    content["seconds"] = round(time.monotonic() - bench.start)
    if arguments.out:
        write(arguments.out, content)
    if arguments.plot:
        draw(content, arguments.plot)
    for failure in bench.failures:
        print(f"wrong: {failure}", file=sys.stderr)
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
