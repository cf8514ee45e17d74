"""bench_stylize.py: what is made of the runs that its processes measured."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import bench_stylize  # noqa: E402


def test_single_disturbances_do_not_count() -> None:
    before = {"times": [1.0, 1.0, 9.0], "peak_memory_mib": 100, "objective": 2.0}
    after = {"times": [3.0, 1.0, 3.0], "peak_memory_mib": 120, "objective": 2.0}
    optimisation = {
        "match_times": [1.0, 1.0, 50.0],
        "step_times": [0.5, 0.5, 30.0, 0.5],
        "objectives": [4.0, 3.0, 1.5, 1.0],
        "peak_memory_mib": 300,
        "objective": 1.0,
    }
    ours, theirs = bench_stylize.compared(256, before, optimisation, after)
    assert (ours["seconds"], ours["fastest"], ours["slowest"], ours["runs"]) == (2.0, 1.0, 9.0, 6)
    assert (theirs["seconds"], theirs["seconds_a_step"], theirs["slowest_step"]) == (3.0, 0.5, 30.0)
    assert theirs["times_ours"] == 1.5 and theirs["seconds_to_our_objective"] == 2.5
    never = bench_stylize.compared(256, {**before, "objective": 0.5}, optimisation, after)[1]
    assert never["seconds_to_our_objective"] is None
