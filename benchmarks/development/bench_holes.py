"""How the time of patchswap.match follows the hole: thin strokes against a square of as many cells.

    python benchmarks/development/bench_holes.py --out benchmarks/results/holes-cpu.json

VGG-19 features of the photographs of cases.py. Holes: strokes as in LaMa's generator ("thin"), seed after seed until
they cover the wanted share of the feature map's cells, and a centred square of the nearest number of cells. A thin
stroke has more patches that touch it, and more cells under these, than a square of its size: both are counted, as they
are the least that has to be worked on. The holes are measured in turn, round after round; times are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import machine
import torch
from bench_match import write
from cases import Case, make_case
from torch import Tensor

import patchswap
from inpaint import mask as masks

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)  # of the cells


def thin_hole(cells: int, share: float) -> Tensor:
    """(cells, cells) bool: thin strokes over at least this share of the cells."""
    hole = torch.zeros(cells, cells, dtype=torch.bool)
    seed = 0
    while hole.float().mean() < share:
        strokes = masks.strokes(4 * cells, 4 * cells, torch.Generator().manual_seed(seed), kind="thin")
        order = masks.feature_hole(strokes[None])[0].nonzero()
        missing = int(share * hole.numel()) + 1 - int(hole.sum())
        rows, columns = order[: max(missing, 1)].unbind(1)
        hole[rows, columns] = True
        seed += 1
    return hole


def square_hole(cells: int, share: float) -> Tensor:
    """(cells, cells) bool: a centred square of this share of the cells."""
    return masks.center(cells, cells, round(cells * share**0.5))


def measure(cases: dict[tuple[str, float], Case], rounds: int) -> dict[tuple[str, float], list[float]]:
    """Seconds of each hole, `rounds` of them."""
    times: dict[tuple[str, float], list[float]] = {name: [] for name in cases}
    for turn in range(rounds + 1):
        for name, case in cases.items():
            masks_of_case = {"query_mask": case.query_mask, "key_mask": case.key_mask}
            start = time.perf_counter()
            patchswap.match(case.features, case.features, **masks_of_case)
            if turn > 0:
                times[name].append(time.perf_counter() - start)
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=512, help="of the picture in pixels, a multiple of 256")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    with torch.inference_mode():
        features = make_case(f"{arguments.side}/128", "photo").features
        cells = features.shape[-1]
        cases = {}
        for share in SHARES:
            for shape, hole in (("thin", thin_hole(cells, share)), ("square", square_hole(cells, share))):
                cases[shape, share] = Case(f"{arguments.side}/{shape}", "photo", features, hole[None])
        times = measure(cases, arguments.rounds)
    results: list[dict[str, Any]] = []
    for (shape, share), case in cases.items():
        hole_cells, median = int(case.hole.sum()), statistics.median(times[shape, share])
        results.append(
            {
                "side": arguments.side,
                "shape": shape,
                "share_percent": 100 * share,
                "hole_cells": hole_cells,
                "queries": case.queries,
                "query_cells": int(case.query_cells.sum()),
                "keys": case.keys,
                "median_ms": round(1e3 * median, 2),
                "fastest_ms": round(1e3 * min(times[shape, share]), 2),
                "microseconds_per_hole_cell": round(1e6 * median / hole_cells, 2),
            }
        )
        print(json.dumps(results[-1]))
    if arguments.out:
        described = machine.describe("cpu", machine.command_line("benchmarks/development/bench_holes.py"))
        write(arguments.out, {"machine": described, "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
