"""Many fills in one process: does memory grow, and do results depend on the number of threads?

    python benchmarks/bench_soak.py --out benchmarks/results/soak-cpu.json
    python benchmarks/bench_soak.py --fills 100

Each fill goes from the bytes of a file to the bytes of a file (inpaint.batch.task), as in `inpaint batch`. The files
are parts of the example photographs, between 64 and 192 pixels a side, as PNG, JPEG, WebP, TIFF and TIFF of 16 bits,
with holes of several kinds; there are CASES of them, which come again and again, with one thread and two in turn.

Memory is what the process has resident, read after each fill. It grows by the median of the last tenth of all fills,
less that of the second tenth: the first tenth warms up. The program fails where that is more than LIMIT_MIB, and where
a case gives other bytes than before.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import machine
import numpy as np
import tifffile
import torch
from bench_match import write
from cases import PHOTOGRAPH_FOLDER, PHOTOGRAPHS
from PIL import Image
from tqdm import tqdm

import inpaint
from inpaint.batch import task
from inpaint.batch.task import File, Fills, Given, Options
from inpaint.mask import strokes

FILLS = 1000
CASES = 50
LIMIT_MIB = 32.0
THREADS = (1, 2)
FORMATS = ("png", "jpg", "webp", "tif", "16.tif")


def case(number: int) -> Given:
    """A part of a photograph as a file, and its mask. The same number always gives the same bytes."""
    random = np.random.default_rng(number)
    with Image.open(PHOTOGRAPH_FOLDER / PHOTOGRAPHS[number % len(PHOTOGRAPHS)]) as image:
        photograph = np.asarray(image.convert("RGB"))
    size = random.integers(64, 193, 2)
    top, left = (random.integers(0, whole - part + 1) for whole, part in zip(photograph.shape, size, strict=False))
    pixels = np.ascontiguousarray(photograph[top : top + size[0], left : left + size[1]])
    extension = FORMATS[number % len(FORMATS)]
    name = f"{number}.{extension}"
    return Given(
        File(name, _encoded(pixels, extension)),
        File(f"{number}.png", _encoded(_hole(number, random, pixels.shape[:2]), "png")),
        name,
    )


def _hole(number: int, random: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool: strokes, specks or a rectangle."""
    height, width = size
    if number % 3 == 0:
        return strokes(height, width, torch.Generator().manual_seed(number), kind="thin").numpy()
    hole = np.zeros(size, bool)
    extent = 4 if number % 3 == 1 else min(size) // 3
    for _ in range(20 if number % 3 == 1 else 1):
        row, column = random.integers(0, (height - extent, width - extent))
        hole[row : row + extent, column : column + extent] = True
    return hole


def _encoded(pixels: np.ndarray, extension: str) -> bytes:
    stream = io.BytesIO()
    if extension == "16.tif":
        tifffile.imwrite(stream, pixels.astype(np.uint16) * 257, photometric="rgb")
    else:
        Image.fromarray(pixels).save(stream, {"jpg": "JPEG", "tif": "TIFF"}.get(extension, extension.upper()))
    return stream.getvalue()


def resident_bytes() -> int:
    """What the process has in memory; Linux alone tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def soak(
    inpainter: Fills, fills: int, cases: int = CASES, resident: Callable[[], int] = resident_bytes
) -> Iterator[dict[str, Any]]:
    """Yields what came of each fill: the number of the case, threads, seconds, digest of the bytes, bytes resident."""
    before = torch.get_num_threads()
    files = [case(number) for number in range(cases)]
    try:
        for fill in range(fills):
            number, threads = fill % cases, THREADS[fill // cases % len(THREADS)]
            torch.set_num_threads(threads)
            start = time.perf_counter()
            content = task.fill(files[number], Options(), inpainter).content
            seconds = time.perf_counter() - start
            digest = hashlib.sha256(content).hexdigest()
            yield {
                "case": number,
                "threads": threads,
                "seconds": seconds,
                "digest": digest,
                "resident": resident(),
            }
    finally:
        torch.set_num_threads(before)


def summary(fills: list[dict[str, Any]]) -> dict[str, Any]:
    """What the results file says: growth in MiB, and the cases whose bytes were not always the same."""
    tenth = max(1, len(fills) // 10)
    resident = [fill["resident"] / 2**20 for fill in fills]
    early, late = (statistics.median(part) for part in (resident[tenth : 2 * tenth], resident[-tenth:]))
    digests: dict[int, set[str]] = {}
    for fill in fills:
        digests.setdefault(fill["case"], set()).add(fill["digest"])
    return {
        "fills": len(fills),
        "cases": len(digests),
        "threads": sorted({fill["threads"] for fill in fills}),
        "seconds": round(sum(fill["seconds"] for fill in fills), 1),
        "resident_mib": {
            "second_tenth": round(early, 1),
            "last_tenth": round(late, 1),
            "most": round(max(resident), 1),
        },
        "growth_mib": round(late - early, 1),
        "limit_mib": LIMIT_MIB,
        "cases_that_differ": sorted(number for number, found in digests.items() if len(found) > 1),
    }


def problems(found: dict[str, Any]) -> list[str]:
    """What is wrong with a summary."""
    wrong = []
    if found["growth_mib"] > LIMIT_MIB:
        wrong.append(f"memory grew by {found['growth_mib']} MiB, expected {LIMIT_MIB} or less")
    if found["cases_that_differ"]:
        wrong.append(f"expected the same bytes every time, got others in cases {found['cases_that_differ']}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--fills", type=int, default=FILLS, help=f"(default: {FILLS})")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    inpainter = inpaint.load(device="cpu", max_memory=2**33)
    found = summary(list(tqdm(soak(inpainter, arguments.fills), total=arguments.fills, unit="fill")))
    for name, value in found.items():
        print(f"{name}: {value}")
    if arguments.out:
        described = machine.describe("cpu", machine.command_line("benchmarks/bench_soak.py"))
        write(arguments.out, {"machine": described, "results": found})
    wrong = problems(found)
    for problem in wrong:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
