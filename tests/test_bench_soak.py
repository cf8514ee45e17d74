"""bench_soak.py: a short soak, and what it says of memory that grows and of bytes that differ."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

pytest.importorskip("tqdm")

import bench_soak  # noqa: E402
from bench_soak import LIMIT_MIB, problems, soak, summary  # noqa: E402

import inpaint  # noqa: E402

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux alone tells what is resident")


def test_thirty_fills_give_the_same_bytes_and_leave_memory_flat() -> None:
    before = torch.get_num_threads()
    found = summary(list(soak(inpaint.load(device="cpu", max_memory=2**33), 30, cases=3)))
    assert found["fills"] == 30 and found["cases"] == 3 and found["threads"] == [1, 2]
    assert problems(found) == [] and torch.get_num_threads() == before


def test_cases_are_files_of_every_format_and_always_the_same() -> None:
    cases = [bench_soak.case(number) for number in range(10)]
    assert cases == [bench_soak.case(number) for number in range(10)]
    assert {each.output.partition(".")[2] for each in cases} == set(bench_soak.FORMATS)
    assert len({each.photograph.content for each in cases}) == 10


def fills(resident: list[float], digests: list[str]) -> list[dict]:
    return [
        {"case": number % 2, "threads": 1, "seconds": 0.5, "digest": digest, "resident": int(2**20 * mebibytes)}
        for number, (mebibytes, digest) in enumerate(zip(resident, digests, strict=True))
    ]


def test_memory_that_grows_is_a_problem() -> None:
    growing = [100 + number * 0.9 * LIMIT_MIB / 17 for number in range(20)]
    found = summary(fills(growing, ["x"] * 20))
    assert found["growth_mib"] == pytest.approx(0.9 * LIMIT_MIB * 16 / 17, abs=0.1) and problems(found) == []
    growing = [100 + number * 1.1 * LIMIT_MIB / 16 for number in range(20)]
    assert problems(summary(fills(growing, ["x"] * 20)))[0].startswith("memory grew by 35.2 MiB, expected 32.0 or less")
    warming_up = [10.0] * 2 + [500.0] * 18
    assert problems(summary(fills(warming_up, ["x"] * 20))) == []


def test_bytes_that_differ_are_a_problem() -> None:
    found = summary(fills([1.0] * 20, ["x", "y"] * 9 + ["x", "z"]))
    assert found["cases_that_differ"] == [1]
    assert problems(found) == ["expected the same bytes every time, got others in cases [1]"]


def test_a_fill_that_depends_on_threads_is_found() -> None:
    class Depends:
        def fill(self, job):
            picture = job.picture.filled([])
            picture.samples[job.hole] = torch.get_num_threads()
            return SimpleNamespace(picture=picture, notes=())

    found = summary(list(soak(Depends(), 40, cases=10, resident=lambda: 0)))
    assert found["cases_that_differ"] == list(range(10))
