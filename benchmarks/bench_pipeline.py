"""Filling a picture end to end, against neural inpainting and weight-free methods, side by side in one run.

    python benchmarks/bench_pipeline.py --device cpu --out results.json --plot times.png
    python benchmarks/bench_pipeline.py --sizes 512/224 --forms ours,neural-fast-patchswap --append --out results.json
    pytest benchmarks/bench_pipeline.py --benchmark-only

Prints a table for each size, and writes everything as JSON: the time of a whole picture, of ours also that of each
stage at each scale, and the peak memory of the process. Sizes and pictures are those of cases.py. Each form runs in a
process of its own (measure_pipeline.py), warmed up with a small picture; what takes longer than 10 seconds is run once.

What does not fit into memory or into the time budget is listed with that reason; nothing is extrapolated. Ours comes
first, at all sizes, then the weight-free methods, then neural inpainting from the smallest size on, so that its minutes
keep nothing else from being measured, and at last ours once more where there was something to compare it with: its
median is over both times, before and after the others. A ratio is always to ours in the same run. Each row says what
share of the machine other programs took meanwhile ("others_percent"): where that is more than a few, measure again.

Neural inpainting needs VGG-19 up to relu4_2, which `make vgg19` fetches; --vgg or INPAINT_VGG19 name another file
(rivals/deep_vgg.py). Without it its rows are listed with that reason.

The pytest form measures the same at 256/112 and 512/224 in one process, in about ten minutes on two cores: five runs
after a warm-up, neural inpainting, matching by patchswap, once. conftest.py prints the ratios to ours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import machine
import pytest
import torch
from bench_match import Worker, write
from cases import make_hole, parse_size
from measure_pipeline import FORMS, check, picture, tiny
from plot import draw_pipeline
from tables import stage_sums
from torch import Tensor
from tqdm import tqdm

from inpaint.errors import InpaintError

SIZES = ["256/112", "512/224", "1024/512", "2048/512"]
NEURAL_SIDES = (256, 512)
SECONDS_PER_FORM = 6.0
START_SECONDS = 6.0  # to start a process, load networks and warm up
REFERENCE = "ours"
GROUPS = ("ours", "weight-free", "neural")  # in the order of measuring
SAME_MACHINE = ("cpu", "instruction_set", "cores", "threads", "memory_gib", "packages", "gpu")


@dataclass
class Bench:
    """One run: what has been measured so far, and what is left of the time."""

    device: str
    budget: float
    vgg: str | None = None
    seconds: float = SECONDS_PER_FORM
    new_worker: Callable[[str], Any] = Worker
    results: list[dict[str, Any]] = field(default_factory=list)
    start: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds until the budget is used up."""
        return self.start + self.budget - time.monotonic()

    def measure(self, name: str, size: str) -> None:
        """Adds one row to the results, or to the runs of the row that is there already."""
        form = FORMS[name]
        head = {"size": size, "form": name, "label": form.label, "group": form.group}
        earlier = self.row(name, size)
        row = {**head, **(self.refuse(name, size) or self.ask(name, size))}
        if earlier is None:
            self.results.append(row)
        elif "times" in row and "times" in earlier:
            earlier.update(joined(earlier, row))
        elif "times" in row:
            earlier.clear()
            earlier.update(row)

    def row(self, name: str, size: str) -> dict[str, Any] | None:
        return next((row for row in self.results if (row["form"], row["size"]) == (name, size)), None)

    def refuse(self, name: str, size: str) -> dict[str, Any] | None:
        """Why a form is not started, if it is not."""
        expected, left = self.predict(name, size), self.left
        if name != REFERENCE:  # which is measured again after the others
            ours = [row["size"] for row in self.results if row["form"] == REFERENCE and "times" in row]
            left -= sum(self.predict(REFERENCE, size) for size in ours)
        if expected <= left:
            return None
        return {"skipped": f"over the time budget: needs about {expected:.0f} s, {max(0.0, left):.0f} s are left"}

    def predict(self, name: str, size: str) -> float:
        """Seconds that measuring a form will take, by the hole's area and its time at the last size."""
        for row in reversed(self.results):
            if row["form"] == name and "times" in row:
                area = float(make_hole(size).sum()) / float(make_hole(row["size"]).sum())
                return START_SECONDS + max(self.seconds, statistics.median(row["times"]) * max(1.0, area))
        return START_SECONDS

    def ask(self, name: str, size: str) -> dict[str, Any]:
        """What a process of its own measures, or the reason why it did not."""
        job = {"form": name, "size": size, "device": self.device, "seconds": self.seconds, "vgg": self.vgg}
        worker = self.new_worker("measure_pipeline.py")
        try:
            return worker.ask(job, max(START_SECONDS, self.left))
        finally:
            worker.stop()

    def summaries(self) -> list[dict[str, Any]]:
        """What goes into the results file."""
        return [self.summary(row) if "times" in row else row for row in self.results]

    def summary(self, row: dict[str, Any]) -> dict[str, Any]:
        told = dict(row)
        times, memory, scales, others = (told.pop(key) for key in ("times", "peak_memory", "scales", "others"))
        median = statistics.median(times)
        ours = self.row(REFERENCE, row["size"])
        reference = statistics.median(ours["times"]) if ours and "times" in ours else None
        return {
            **told,
            "median_ms": _round(1e3 * median),
            "p95_ms": _round(1e3 * sorted(times)[min(len(times) - 1, int(0.95 * len(times)))]),
            "fastest_ms": _round(1e3 * min(times)),
            "runs": len(times),
            "others_percent": _round(100 * others),
            "times_ours": _round(median / reference) if reference else None,
            "ours_ms": _round(1e3 * reference) if reference else None,  # in the same run
            "peak_memory_mib": round(memory / 2**20),
            "scale_ms": {
                scale: {stage: _round(1e3 * seconds) for stage, seconds in stages.items()}
                for scale, stages in scales.items()
            },
        }


def joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """One answer of a worker out of two about the same form: all runs, and the means of their stages."""
    return {
        "times": first["times"] + second["times"],
        "peak_memory": max(first["peak_memory"], second["peak_memory"]),
        "others": (first["others"] + second["others"]) / 2,
        "scales": {
            scale: {stage: (seconds + second["scales"][scale][stage]) / 2 for stage, seconds in stages.items()}
            for scale, stages in first["scales"].items()
        },
    }


def plan(sizes: Sequence[str], forms: Sequence[str], device: str) -> list[tuple[str, str]]:
    """(form, size) in the order of measuring. Ours is always among them, as what the others are compared with, and
    twice where there are others."""
    here = [
        form for form in FORMS.values() if (form.name in forms or form.name == REFERENCE) and device in form.devices
    ]
    once = [
        (form.name, size)
        for group in GROUPS
        for size in sizes
        for form in here
        if form.group == group and (group != "neural" or parse_size(size)[0] in NEURAL_SIDES)
    ]
    compared = {size for name, size in once if FORMS[name].group != REFERENCE}
    return once + [(REFERENCE, size) for size in sizes if size in compared]


def merge(earlier: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """New results, and those of earlier ones that were not measured again."""
    found = {(row["form"], row["size"]): row for row in earlier["results"]}
    for row in content["results"]:
        key = (row["form"], row["size"])
        if key not in found or "median_ms" in row or "median_ms" not in found[key]:
            found[key] = row
    order = list(FORMS)
    rows = sorted(found.values(), key=lambda row: (parse_size(row["size"])[0], row["size"], order.index(row["form"])))
    dates = {row.get("date") for row in rows}
    pieces = [piece for piece in earlier["pieces"] + content["pieces"] if piece["date"] in dates or None in dates]
    return {**content, "pieces": pieces, "results": rows}


def print_table(results: list[dict[str, Any]]) -> None:
    for size in dict.fromkeys(row["size"] for row in results):
        print(f"\n{size:59}median s       p95    x ours       MiB  others %")
        rows = [row for row in results if row["size"] == size]
        for row in sorted(rows, key=lambda row: row.get("median_ms", float("inf"))):
            if "skipped" in row:
                print(f"{row['label']:55}  {row['skipped']}")
                continue
            values = [row["median_ms"] / 1e3, row["p95_ms"] / 1e3]
            values += [row[name] for name in ("times_ours", "peak_memory_mib", "others_percent")]
            print(f"{row['label']:55}" + "".join(f"{'' if value is None else f'{value:.4g}':>10}" for value in values))
            if row["group"] == "ours":
                print("    " + ", ".join(f"{stage} {time / 1e3:.3g}" for stage, time in stage_sums(row).items()))


def command_line() -> str:
    """The command, with the name of the VGG-19 file but not its folder."""
    parts = [Path(part).name if part.endswith((".tar.gz", ".safetensors", ".pth")) else part for part in sys.argv[1:]]
    return " ".join(["python benchmarks/bench_pipeline.py", *parts])


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--sizes", default=",".join(SIZES), help="SIDE/HOLE in pixels (default: %(default)s)")
    parser.add_argument("--forms", default=",".join(FORMS), help="names out of %(default)s; ours is always measured")
    parser.add_argument("--vgg", help="VGG-19 up to relu4_2; INPAINT_VGG19 names it otherwise")
    parser.add_argument("--budget-seconds", type=float, default=600.0)
    parser.add_argument("--seconds-per-form", type=float, default=SECONDS_PER_FORM)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument(
        "--append",
        action="store_true",
        help="keep what --out holds of the same machine and versions and this run does not measure",
    )
    parser.add_argument("--plot", type=Path, help="picture to write")
    found = parser.parse_args(arguments)
    found.sizes, found.forms = found.sizes.split(","), found.forms.split(",")
    for size in found.sizes:
        try:
            parse_size(size)
        except ValueError as error:
            parser.error(str(error))
    if unknown := set(found.forms) - set(FORMS):
        parser.error(f"--forms: expected names out of {', '.join(FORMS)}; got {', '.join(sorted(unknown))}")
    if found.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no NVIDIA GPU; use --device cpu")
    return found


def main() -> None:
    arguments = parse_arguments()
    facts = machine.describe(arguments.device, command_line())
    earlier = None
    if arguments.append and arguments.out and arguments.out.exists():
        earlier = json.loads(arguments.out.read_text())
        if differing := [name for name in SAME_MACHINE if earlier["machine"].get(name) != facts.get(name)]:
            tqdm.write(f"--append: {arguments.out} is of another {', '.join(differing)} and begins anew", sys.stderr)
            earlier = None
    bench = Bench(arguments.device, arguments.budget_seconds, arguments.vgg, arguments.seconds_per_form)
    content: dict[str, Any] = {}
    for name, size in tqdm(plan(arguments.sizes, arguments.forms, arguments.device), unit="form"):
        bench.measure(name, size)
        piece = {name: facts[name] for name in ("command", "date", "commit")}
        piece["seconds"] = round(time.monotonic() - bench.start)
        rows = [{**row, "date": facts["date"]} for row in bench.summaries()]  # the date of their piece
        content = {"machine": facts, "pieces": [piece], "results": rows}
        if earlier:
            content = merge(earlier, content)
        if arguments.out:
            write(arguments.out, content)
    print_table(bench.summaries())
    if arguments.plot:
        draw_pipeline(content, arguments.plot)


@pytest.fixture(scope="module", params=["256/112", "512/224"])
def case(request: pytest.FixtureRequest) -> tuple[str, Tensor, Tensor]:
    return (request.param, *picture(request.param, "cpu"))


@pytest.mark.parametrize("form", [name for name in FORMS if not name.endswith("-convolution")])
def test_fill(benchmark, case: tuple[str, Tensor, Tensor], form: str) -> None:
    size, image, hole = case
    try:
        fill = FORMS[form].make("cpu", None)
    except InpaintError as error:
        pytest.skip(str(error))
    fill(*tiny(image))  # code is loaded before time is counted
    benchmark.group = f"fill {size}"
    once = FORMS[form].group == "neural"
    rounds = {"rounds": 1, "warmup_rounds": 0} if once else {"rounds": 5, "warmup_rounds": 1}
    filled, _ = benchmark.pedantic(fill, args=(image, hole), **rounds)
    check(filled, image)


if __name__ == "__main__":
    main()
