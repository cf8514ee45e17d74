"""bench_photograph.py: its photograph and holes, what is cut out, detail, and what is made of the measurements."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

pytest.importorskip("tqdm")

import bench_photograph  # noqa: E402
import measure_photograph  # noqa: E402
import tables  # noqa: E402
from measure_photograph import HOLES, SIZE, cut_out, detail, make_photograph, rectangle  # noqa: E402

import inpaint  # noqa: E402
from inpaint.photo import LUMINANCE, Photo, read  # noqa: E402
from inpaint.window import find_windows  # noqa: E402

ANSWER = {
    "hole_pixels": 40_000,
    "windows": 1,
    "finest": 2560,
    "times": [1.0, 3.0, 1.5],
    "cut_times": [1.0, 1.25, 9.0],
    "stages": {"infer": 0.25, "vgg": 0.5},
    "peak_memory": 300 << 20,
    "detail": 0.81239,
    "others": 0.02,
}


def small(height: int = 256, width: int = 320, seed: int = 0) -> Photo:
    """Noise of coarse squares."""
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return Photo(np.ascontiguousarray(coarse.repeat(8, 0).repeat(8, 1)[:height, :width]))


def test_the_photograph_has_an_example_in_the_middle_and_its_mirror_images_around_it() -> None:
    samples = make_photograph().samples
    assert samples.shape == (*SIZE, 3)
    flower = read(BENCHMARKS.parent / "examples" / "photos" / "flower.jpg").samples
    row, column = 854 + 214, 1280 + 320  # tiles of 854x1280, in its middle 427x640, rounded
    assert np.array_equal(samples[row : row + 427, column : column + 640], flower)
    assert np.array_equal(samples[row - 1 - np.arange(200), column : column + 640], flower[:200])
    assert np.array_equal(samples[row : row + 427, column + 640 + np.arange(300)], flower[:, ::-1][:, :300])


def test_tiles_smaller_than_the_examples_show_their_middle() -> None:
    samples = make_photograph((300, 330)).samples
    astronaut = read(BENCHMARKS.parent / "examples" / "photos" / "astronaut.jpg").samples
    assert samples.shape == (300, 330, 3)
    assert np.array_equal(samples[:100, :110], astronaut[206:306, 201:311])


def test_holes() -> None:
    square, two, many, quarter = (HOLES[name](SIZE) for name in HOLES)
    assert square[1180:1380, 1820:2020].all() and square.sum() == 200 * 200
    assert two[:20, :20].all() and two[-20:, -20:].all() and two.sum() == 2 * 20 * 20
    assert quarter[640:1920, 960:2880].all() and quarter.sum() == 1280 * 1920
    assert 300 * np.pi * 2**2 < many.sum() < 300 * np.pi * 5.5**2
    assert np.array_equal(many, HOLES["300 discs"](SIZE)), "the same every time"


def test_detail_is_the_deviation_from_the_four_neighbours() -> None:
    picture, hole = small(24, 20), rectangle((24, 20), (24, 7))  # it touches two borders
    grey = picture.samples.astype(np.float64) / 255 @ np.array(LUMINANCE)
    found = []
    for row, column in np.argwhere(hole).tolist():
        around = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        neighbours = [grey[min(max(r, 0), 23), min(max(c, 0), 19)] for r, c in around]
        found.append(grey[row, column] - np.mean(neighbours))
    assert detail(picture, hole) == pytest.approx(np.std(found), rel=1e-4)
    assert detail(Photo(np.full((24, 20, 3), 77, np.uint8)), hole) == pytest.approx(0, abs=1e-6)


def test_what_is_cut_out_is_filled_as_in_the_photograph() -> None:
    torch.manual_seed(0)
    inpainter = inpaint.load(device="cpu", precision="float32", max_memory=2**33)
    picture, hole = small(400, 436), rectangle((400, 436), (20, 24))
    windows = find_windows(hole)
    cut = cut_out(picture, hole, windows)
    assert cut is not None and cut[0].size == windows[0].crop.size < picture.size and cut[1].sum() == hole.sum()
    whole = measure_photograph.fill(inpainter, picture, hole).picture.samples
    alone = measure_photograph.fill(inpainter, *cut).picture.samples
    differing = np.abs(whole[hole].astype(int) - alone[cut[1]])
    assert differing.max() <= 1, "up to rounding"


def test_nothing_is_cut_out_of_several_windows_or_of_one_that_sees_everything() -> None:
    picture = small()
    for hole in (HOLES["300 discs"](picture.size), HOLES["middle quarter"](picture.size)):
        assert cut_out(picture, hole, find_windows(hole)) is None


@pytest.mark.parametrize("hole", ["two corners", "middle quarter"])
def test_a_small_photograph_is_measured(hole: str, tmp_path: Path) -> None:
    picture = small()
    Image.fromarray(picture.samples).save(tmp_path / "small.png")
    job = {"hole": hole, "photograph": str(tmp_path / "small.png"), "device": "cpu", "seconds": 0.0}
    answer = measure_photograph.measure(job)
    assert json.loads(json.dumps(answer)) == answer
    mask = HOLES[hole](picture.size)
    windows = find_windows(mask)
    assert answer["hole_pixels"] == mask.sum() and answer["windows"] == len(windows) and answer["finest"] == 256
    assert len(answer["times"]) == measure_photograph.FEWEST_RUNS and answer["cut_times"] == []
    assert set(answer["stages"]) == {"infer", "vgg", "match", "translate", "blend"}
    assert answer["peak_memory"] > 0 and 0 < answer["detail"] < 2
    assert set(bench_photograph.summary(answer)) >= {"median_ms", "stage_ms", "peak_memory_mib", "others_percent"}


def test_changed_known_pixels_and_small_photographs_are_errors(tmp_path: Path) -> None:
    picture, other = small(), small(seed=1)
    hole = rectangle(picture.size, (20, 20))
    with pytest.raises(ValueError, match="expected known pixels as they were"):
        measure_photograph.check(other, picture, hole)
    Image.fromarray(picture.samples[:255]).save(tmp_path / "low.png")
    with pytest.raises(ValueError, match="expected at least 256 pixels a side, got 320x255"):
        measure_photograph.read_photograph(str(tmp_path / "low.png"))


class FakeWorker:
    answer: dict[str, Any] = ANSWER

    def __init__(self, program: str) -> None:
        assert (BENCHMARKS / program).is_file()

    def ask(self, job: dict[str, Any], seconds: float) -> dict[str, Any]:
        assert job["hole"] in HOLES and seconds > job["seconds"] > 0
        return self.answer

    def stop(self) -> None:
        pass


class FailingWorker(FakeWorker):
    answer = {"skipped": "does not fit: stopped by the system"}


def test_a_row_has_medians_and_the_ratio_to_what_is_cut_out() -> None:
    row = bench_photograph.measure("200x200", None, "cpu", new_worker=FakeWorker)
    assert (row["median_ms"], row["fastest_ms"], row["runs"]) == (1500.0, 1000.0, 3)
    assert (row["cut_out_ms"], row["times_cut_out"]) == (1250.0, 1.2)
    assert row["stage_ms"] == {"infer": 250.0, "vgg": 500.0} and row["peak_memory_mib"] == 300
    assert (row["detail"], row["others_percent"]) == (0.8124, 2.0)


def test_the_table_has_what_was_measured() -> None:
    whole = bench_photograph.measure("200x200", None, "cpu", new_worker=FakeWorker)
    flat = {**whole, "hole": "300 discs", "cut_out_ms": None, "detail": None, "stage_ms": {"infer": 400.0}}
    failed = bench_photograph.measure("middle quarter", None, "cpu", new_worker=FailingWorker)
    assert failed == {"hole": "middle quarter", **FailingWorker.answer}
    header, _, first, second = tables.photograph_costs([whole, flat, failed]).splitlines()
    assert header == (
        "| milliseconds | hole pixels | windows | finest scale | infer | vgg | other | all | cut out (ratio to it) | "
        "memory | detail |"
    )
    assert first == ("| 200x200 | 40,000 | 1 | 2560 | 250 | 500 | 750 | **1,500** | 1,250 (1.20 x) | 300 MiB | 0.81 |")
    assert second == "| 300 discs | 40,000 | 1 | 2560 | 400 | 0 | 1,100 | **1,500** |  | 300 MiB |  |"


def test_the_command_names_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("/somewhere/photo.jpg")
    monkeypatch.setattr(sys, "argv", ["bench_photograph.py", "--photograph", str(path), "--device", "cpu"])
    command = bench_photograph.command_line(path)
    assert command == "python benchmarks/bench_photograph.py --photograph photo.jpg --device cpu"
