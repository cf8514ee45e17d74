"""What filling holes of a photograph of ten megapixels costs: time by stage, memory, and how much detail comes back.

    python benchmarks/bench_photograph.py --out benchmarks/results/photograph-cpu.json
    python benchmarks/bench_photograph.py --photograph photo.jpg
    pytest benchmarks/bench_photograph.py --benchmark-only

3840x2560 pixels, made of the example photographs, and four holes: a square of 200x200 in the middle; two of 20x20 in
opposite corners; 300 discs of radius 2 to 5; and the middle quarter, 1920x1280 (measure_photograph.py). --photograph
takes another file at its own size. Times are medians of a whole fill, networks loaded and photograph decoded. Each hole
is measured in a process of its own, so that the high-water mark of its memory is the hole's. It counts above what
networks, photograph and mask take; the filled photograph is part of it.

Detail: the standard deviation over the hole of a pixel's luminance less the mean of its four neighbours', the result's
over the truth's. 1 is as sharp as the truth, 0 is flat.

Cut out: the part that the window of the hole sees, filled as a picture of its own, in turn with the photograph. The
ratio to it says what the rest of the photograph costs. Each row says what share of the machine other programs took
("others_percent"): where that is more than a few, measure again.

The pytest form measures the same times in one process. conftest.py prints the ratios to ours.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import machine
import pytest
import torch
from bench_match import Worker, write
from measure_photograph import HOLES, check, cut_out, fill, read_photograph, warm_up
from tables import photograph_costs
from tqdm import tqdm

import inpaint
from inpaint.errors import InpaintError
from inpaint.inpainter import Inpainter
from inpaint.photo import Photo
from inpaint.window import find_windows

SECONDS_PER_HOLE = 4.0
LONGEST = 300.0  # seconds after which a hole is given up


def measure(
    hole: str,
    photograph: str | None,
    device: str,
    seconds: float = SECONDS_PER_HOLE,
    new_worker: Callable[[str], Any] = Worker,
) -> dict[str, Any]:
    """A row of the results, or the reason why there is none."""
    worker = new_worker("measure_photograph.py")
    try:
        job = {"hole": hole, "photograph": photograph, "device": device, "seconds": seconds}
        answer = worker.ask(job, LONGEST)
    finally:
        worker.stop()
    return {"hole": hole, **(answer if "skipped" in answer else summary(answer))}


def summary(answer: dict[str, Any]) -> dict[str, Any]:
    """What goes into the results file of what a process has measured."""
    told = dict(answer)
    times, cut_times, stages, memory, others = (
        told.pop(name) for name in ("times", "cut_times", "stages", "peak_memory", "others")
    )
    median = statistics.median(times)
    cut = statistics.median(cut_times) if cut_times else None
    return {
        **told,
        "detail": None if told["detail"] is None else _round(told["detail"]),
        "median_ms": _round(1e3 * median),
        "fastest_ms": _round(1e3 * min(times)),
        "runs": len(times),
        "stage_ms": {stage: _round(1e3 * seconds) for stage, seconds in stages.items()},
        "peak_memory_mib": round(memory / 2**20),
        "cut_out_ms": _round(1e3 * cut) if cut else None,
        "times_cut_out": _round(median / cut) if cut else None,
        "others_percent": _round(100 * others),
    }


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def command_line(photograph: Path | None) -> str:
    """The command, with the name of the photograph but not its folder."""
    parts = [photograph.name if photograph and part == str(photograph) else part for part in sys.argv[1:]]
    return " ".join(["python benchmarks/bench_photograph.py", *parts])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--photograph", type=Path, help="file to fill (default: made of the example photographs)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seconds-per-hole", type=float, default=SECONDS_PER_HOLE)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no NVIDIA GPU; use --device cpu")
    file = arguments.photograph and str(arguments.photograph)
    try:
        height, width = read_photograph(file).size
    except (InpaintError, ValueError) as error:
        parser.error(str(error))
    results = [measure(hole, file, arguments.device, arguments.seconds_per_hole) for hole in tqdm(HOLES, unit="hole")]
    print(photograph_costs(results))
    skipped = [row for row in results if "skipped" in row]
    for row in skipped:
        print(f"not measured: {row['hole']}: {row['skipped']}")
    if arguments.out:
        described = machine.describe(arguments.device, command_line(arguments.photograph))
        photograph = {"file": arguments.photograph and arguments.photograph.name, "width": width, "height": height}
        write(arguments.out, {"machine": described, "photograph": photograph, "results": results})
    return 1 if skipped else 0


@pytest.fixture(scope="module")
def inpainter() -> Inpainter:
    return inpaint.load(device="cpu")


@pytest.fixture(scope="module")
def photograph(inpainter: Inpainter) -> Photo:
    picture = read_photograph(None)
    warm_up(inpainter, picture)
    return picture


@pytest.fixture(params=list(HOLES))
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("form", ["ours", "cut-out"])
def test_fill_photograph(benchmark, inpainter: Inpainter, photograph: Photo, case: str, form: str) -> None:
    picture, hole = photograph, HOLES[case](photograph.size)
    if form == "cut-out":
        cut = cut_out(picture, hole, find_windows(hole))
        if cut is None:
            pytest.skip("the work is not in one window that is smaller than the photograph")
        picture, hole = cut
    benchmark.group = f"fill {case} of ten megapixels"
    rounds = {"rounds": 1, "warmup_rounds": 0} if case == "middle quarter" else {"rounds": 5, "warmup_rounds": 1}
    filled = benchmark.pedantic(fill, args=(inpainter, picture, hole), **rounds)
    check(filled.picture, picture, hole)


if __name__ == "__main__":
    sys.exit(main())
