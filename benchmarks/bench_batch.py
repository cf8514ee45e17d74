"""How many photographs a minute do the engines of `inpaint batch` fill on this CPU, and in how much memory?

    python benchmarks/bench_batch.py --out benchmarks/results/batch-cpu.json
    python benchmarks/bench_batch.py --engines local --photographs 8

Two kinds of photographs, as JPEG files that are read, decoded, filled, encoded and written: parts of 512x512 pixels of
the example photographs with a hole of 224x224; and the photograph of 3840x2560 pixels that bench_photograph.py makes
with a hole of 200x200. Engines: one photograph at a time with all threads ("local, one job"), `inpaint batch` as it is
("local"), and `inpaint batch --engine ray` with Ray started on this machine ("ray").

The rate is that of all photographs but the first ones of each worker, so that starting is not in it; starting is in a
column of its own. Each row says what share of the machine other programs took ("others_percent"): where that is more
than a few, measure again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import machine
import numpy as np
from bench_match import Worker, write
from cases import photograph as squares
from measure_photograph import make_photograph, rectangle
from PIL import Image
from tables import batch_rates
from tqdm import tqdm

KINDS = {"512x512": (224, 224), "3840x2560": (200, 200)}  # sizes of the hole
DIFFERENT = 6  # files; the others are copies
ENGINES = {"local, one job": ("local", 1), "local": ("local", None), "ray": ("ray", None)}
COUNTS = {"512x512": 96, "3840x2560": 32}  # photographs
LONGEST = 1800.0  # seconds after which a row is given up


def make_folder(folder: Path, kind: str, count: int) -> int:
    """So many photographs and masks; returns the bytes of all of them."""
    (folder / "photos").mkdir(parents=True)
    (folder / "masks").mkdir()
    for number in range(count):
        photograph = folder / "photos" / f"{number:03}.jpg"
        mask = folder / "masks" / f"{number:03}.png"
        if number < DIFFERENT:
            pixels = picture(kind, number)
            Image.fromarray(pixels).save(photograph, quality=90)
            Image.fromarray(rectangle(pixels.shape[:2], KINDS[kind])).save(mask)
        else:
            for path in (photograph, mask):
                shutil.copy(path.with_stem(f"{number % DIFFERENT:03}"), path)
    return sum(path.stat().st_size for path in folder.rglob("*.*"))


def picture(kind: str, number: int) -> np.ndarray:
    """(H, W, 3) uint8."""
    if kind == "3840x2560":
        return make_photograph().samples
    row, column = divmod(number, 4)
    return squares(2048)[512 * row : 512 * (row + 1), 512 * column : 512 * (column + 1)]


def measure(engine: str, kind: str, count: int) -> dict[str, Any]:
    """A row of the results, or the reason why there is none."""
    name, jobs = ENGINES[engine]
    with tempfile.TemporaryDirectory(prefix="bench-batch-") as place:
        given = make_folder(Path(place) / "folder", kind, count)
        worker = Worker("measure_batch.py")
        try:
            answer = worker.ask({"engine": name, "jobs": jobs, "folder": str(Path(place) / "folder")}, LONGEST)
        finally:
            worker.stop()
    row = {"engine": engine, "photograph": kind, "hole": "x".join(map(str, KINDS[kind])), "photographs": count}
    return row | (answer if "skipped" in answer else summary(answer, count, given))


def summary(answer: dict[str, Any], count: int, given: int) -> dict[str, Any]:
    """What goes into the results file of what a process has measured."""
    return {
        "at_once": answer["at_once"],
        "cores": len(os.sched_getaffinity(0)),
        "photographs_per_minute": _round(60 * answer["steady_photographs"] / answer["steady_seconds"]),
        "start_seconds": _round(answer["start_seconds"]),
        "seconds": _round(answer["seconds"]),
        "memory_mib": round(answer["memory"] / 2**20),
        "input_kib": _round(given / count / 2**10),
        "output_kib": _round(answer["output_bytes"] / count / 2**10),
        "others_percent": _round(100 * answer["others"]),
    }


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--engines", default=";".join(ENGINES), help="names with ; between them (default: all)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of photographs (default: all)")
    parser.add_argument("--photographs", type=int, help=f"of each kind, at least 8 (default: {COUNTS})")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    engines, kinds = arguments.engines.split(";"), arguments.kinds.split(",")
    for given, known in ((engines, ENGINES), (kinds, KINDS)):
        if unknown := set(given) - known.keys():
            parser.error(f"expected {', '.join(known)}, got {', '.join(unknown)}")
    if arguments.photographs is not None and arguments.photographs < 8:
        parser.error(f"--photographs: expected 8 or more, got {arguments.photographs}")
    wanted = [(engine, kind) for kind in kinds for engine in engines]
    results = [measure(engine, kind, arguments.photographs or COUNTS[kind]) for engine, kind in tqdm(wanted)]
    print(batch_rates(results))
    skipped = [row for row in results if "skipped" in row]
    for row in skipped:
        print(f"not measured: {row['engine']}, {row['photograph']}: {row['skipped']}")
    if arguments.out:
        described = machine.describe("cpu", machine.command_line("benchmarks/bench_batch.py"))
        write(arguments.out, {"machine": described, "results": results})
    return 1 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
