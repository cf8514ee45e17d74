"""make gpu-check keeps its time limits, and says what became of each part."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from gpu_check import BUDGET, Part, plan  # noqa: E402


def run(tmp_path: Path, program: str, limit: float = 60.0, *arguments: str) -> Part:
    part = Part("part", [sys.executable, "-c", program, *arguments], limit)
    part.run(tmp_path / "log")
    return part


def test_status(tmp_path: Path) -> None:
    assert run(tmp_path, "print('fine')").status == "passed"
    failed = run(tmp_path, "import sys; print('what went wrong'); sys.exit(3)")
    assert failed.status == "failed, exit 3" and failed.last_lines == "what went wrong"


def test_a_part_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    child = f"import time, pathlib; time.sleep(3); pathlib.Path({str(mark)!r}).write_text('alive')"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    part = run(tmp_path, program, 0.5)
    assert part.status == "out of time"
    time.sleep(3.5)
    assert not mark.exists()


def test_a_part_is_told_its_budget(tmp_path: Path) -> None:
    part = run(tmp_path, "import sys; print(sys.argv[1])", 100.0, BUDGET)
    assert part.last_lines == "85"


def test_the_plan_fits_into_the_budget() -> None:
    parts = plan(500.0, Path("elsewhere"))
    assert sum(part.limit for part in parts) <= 500.0
    assert [part.name for part in parts] == ["GPU tests", "memcheck", "racecheck", "other tests", "benchmark"]
