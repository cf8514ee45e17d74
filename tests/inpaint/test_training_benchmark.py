"""The stopwatch of benchmarks/development/bench_training.py gives forward and backward work to the part that did it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

BENCHMARKS = Path(__file__).parents[2] / "benchmarks" / "development"
sys.path.insert(0, str(BENCHMARKS))

import bench_training  # noqa: E402


class Slow(torch.autograd.Function):
    @staticmethod
    def forward(context, x: Tensor, forwards: float, backwards: float) -> Tensor:
        context.backwards = backwards
        time.sleep(forwards)
        return 2 * x

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, None, None]:
        time.sleep(context.backwards)
        return 2 * gradient, None, None


class Part(nn.Module):
    def __init__(self, forwards: float, backwards: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.seconds = forwards, backwards

    def forward(self, x: Tensor) -> Tensor:
        return Slow.apply(x * self.weight, *self.seconds)


def test_each_moment_belongs_to_one_part() -> None:
    before = time.perf_counter()
    watch = bench_training.Stopwatch(torch.device("cpu"))
    start = time.perf_counter()
    generator, discriminator = Part(0.05, 0.3), Part(0.2, 0.1)
    watch.watch("generator", generator)
    watch.watch("discriminator", discriminator)
    loss = discriminator(generator(torch.ones(3))).sum()
    time.sleep(0.05)
    loss.backward()
    watch.around("optimiser", time.sleep)(0.15)
    end = time.perf_counter()
    watch.turn("rest")
    after = time.perf_counter()
    assert end - start - 1e-6 <= sum(watch.seconds.values()) <= after - before + 1e-6  # all of the time, and no more
    # Sleeping takes at least as long as asked for; parts in a wrong order would lack 0.05 s and more.
    expected = {"generator": 0.35, "discriminator": 0.3, "optimiser": 0.15, "rest": 0.05}
    assert all(watch.seconds[part] >= seconds - 1e-3 for part, seconds in expected.items())


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_both_stages_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = "image_size = 32\nwindow = 16\nbatch = 2\nworkers = 0\nbfloat16 = false\n[network]\nwidths = [8, 8, 8]\n"
    (tmp_path / "small.toml").write_text(settings)
    arguments = ["--config", tmp_path / "small.toml", "--device", "cpu", "--steps", "2", "--warmup", "1"]
    monkeypatch.setattr(sys, "argv", ["bench_training.py", *map(str, arguments), "--out", str(tmp_path / "out.json")])
    bench_training.main()
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [row["stage"] for row in results] == ["image2feature", "feature2image"]
    for row in results:
        assert sum(row["share"].values()) == pytest.approx(1, abs=1e-3) and row["peak_memory_mib"] > 0
        worked = {part for part, share in row["share"].items() if share > 0}
        assert worked | {"swap"} == set(bench_training.PARTS)
        assert ("swap" in worked) == (row["stage"] == "feature2image")
    assert capsys.readouterr().out.count("images/s") == 2
