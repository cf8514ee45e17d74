"""bench_pipeline.py: what is measured, what is refused and why, how pieces are merged, and its tables and plot."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from inpaint import weights
from inpaint.networks import VGG19
from inpaint.networks.vgg import load_vgg19

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

pytest.importorskip("tqdm")

import bench_pipeline  # noqa: E402
import machine  # noqa: E402
import measure_pipeline  # noqa: E402
import plot  # noqa: E402
import tables  # noqa: E402
from bench_pipeline import Bench  # noqa: E402
from rivals import neural_inpainting  # noqa: E402
from rivals.neural_inpainting import NeuralInpainting, ScaleRun  # noqa: E402


class FakeWorker:
    """Answers every job in the same way and remembers the jobs."""

    jobs: list[dict[str, Any]] = []

    def __init__(self, program: str) -> None:
        assert (BENCHMARKS / program).is_file()

    def ask(self, job: dict[str, Any], seconds: float) -> dict[str, Any]:
        self.jobs.append(job)
        scales = {"256x256": dict.fromkeys(tables.STAGES, 0.01)} if job["form"].startswith("ours") else {}
        seconds = 0.5 if job["form"] == "ours" else 50.0
        return {
            "times": [seconds],
            "peak_memory": 300 << 20,
            "others": 0.02,
            "multiplies_in": "float32",
            "scales": scales,
        }

    def stop(self) -> None:
        pass


def measured(*wanted: tuple[str, str], budget: float = 1000.0) -> list[dict[str, Any]]:
    bench = Bench("cpu", budget, new_worker=FakeWorker)
    for form, size in wanted:
        bench.measure(form, size)
    return bench.summaries()


def content(rows: list[dict[str, Any]]) -> dict[str, Any]:
    machine = {"cpu": "a CPU", "cores": 2, "threads": 2, "memory_gib": 8.0, "packages": {"torch": "2"}}
    return {"machine": machine, "pieces": [{"command": "x"}], "results": rows}


def test_ours_is_measured_whole_and_by_stage() -> None:
    image, hole = measure_pipeline.tiny(measure_pipeline.picture("256/32", "cpu")[0])
    filled, note = measure_pipeline.FORMS["ours-float32"].make("cpu", None)(image, hole)
    assert (filled == image)[:, ~hole].all() and (filled != image)[:, hole].any()
    assert list(note["scales"]) == ["96x96"] and set(note["scales"]["96x96"]) == set(tables.STAGES) - {"enlarge"}
    assert all(seconds > 0 for seconds in note["scales"]["96x96"].values())


def test_peers_fill_the_hole() -> None:
    image, hole = measure_pipeline.picture("256/32", "cpu")
    for name in ("telea", "ns", "biharmonic"):
        pytest.importorskip("skimage" if name == "biharmonic" else "cv2")
        filled, _ = measure_pipeline.FORMS[name].make("cpu", None)(image, hole)
        measure_pipeline.check(filled, image)
        assert (filled[:, hole] - image[:, hole]).abs().mean() < 0.2


@pytest.fixture(scope="module")
def random_vgg(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of VGG-19 up to relu4_2: the package's layers, then random ones that keep activations at about one."""
    torch.manual_seed(0)
    vgg = VGG19("conv4_2")
    for layer in vgg.layers.values():
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    vgg.load_state_dict(load_vgg19(weights.FOLDER / weights.VGG_FILE).state_dict(), strict=False)
    file = tmp_path_factory.mktemp("vgg") / "random.safetensors"
    save_file({name.removeprefix("layers."): value for name, value in vgg.state_dict().items()}, file)
    return str(file)


@pytest.mark.parametrize("name", [name for name, form in measure_pipeline.FORMS.items() if form.group == "neural"])
def test_neural_inpainting_is_run_whole(monkeypatch: pytest.MonkeyPatch, random_vgg: str, name: str) -> None:
    """As the benchmark runs it, but for the picture's size, the weights of the last layers and the iterations."""
    objectives: list[float] = []

    class Short(NeuralInpainting):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options, iterations=8)

        def run(self, image: Tensor, hole: Tensor, on_evaluation: Any = None) -> list[ScaleRun]:
            return super().run(image, hole, lambda size, value: objectives.append(value))

    monkeypatch.setattr(neural_inpainting, "NeuralInpainting", Short)
    image, hole = measure_pipeline.tiny(measure_pipeline.picture("256/32", "cpu")[0])
    filled, note = measure_pipeline.FORMS[name].make("cpu", random_vgg)(image, hole)
    measure_pipeline.check(filled, image)
    assert (filled == image)[:, ~hole].all() and (filled != image)[:, hole].any()
    assert list(note["scales"]) == ["96x96"] and note["scales"]["96x96"]["optimise"] > 0
    assert note["evaluations"] == len(objectives) >= 8
    assert min(objectives) < 0.99 * objectives[0]


def test_a_form_without_its_weights_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INPAINT_VGG19", str(tmp_path / "nowhere.tar.gz"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    worker = bench_pipeline.Worker("measure_pipeline.py")
    job = {"form": "neural-fast-patchswap", "size": "256/112", "device": "cpu", "seconds": 0.0, "vgg": None}
    answer = worker.ask(job, 60)
    worker.stop()
    assert answer["skipped"].startswith("failed: expected VGG-19 weights")


def test_benchmark_prints_ratios_to_ours_and_what_is_missing(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark")
    pytest.importorskip("cv2")
    forms = ("ours", "telea", "neural-fast-patchswap", "neural-paper-patchswap")
    cases = [f"{BENCHMARKS / 'bench_pipeline.py'}::test_fill[256/112-{form}]" for form in forms]
    results = tmp_path / "times.json"
    command = [sys.executable, "-m", "pytest", *cases, "--benchmark-only", f"--benchmark-json={results}"]
    environment = {**os.environ, "INPAINT_VGG19": str(tmp_path / "nowhere.tar.gz"), "PYTHONSAFEPATH": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)  # where it is set, pytest-benchmark measures nothing
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.returncode == 0 and "2 passed, 2 skipped" in found.stdout, found.stdout + found.stderr
    ours, telea = json.loads(results.read_text())["results"]
    assert ours["times_ours"] == 1
    assert telea["times_ours"] == pytest.approx(telea["median_ms"] / ours["median_ms"], abs=2e-3)
    assert re.search(r"^fill 256/112\n", found.stdout, re.MULTILINE)
    assert re.search(r"^ +telea +[\d.]+ s +[\d.]+ x$", found.stdout, re.MULTILINE)
    assert re.search(r"^not measured: .*neural-paper-patchswap\]: expected VGG-19", found.stdout, re.MULTILINE)


def test_ratio_is_to_ours_in_the_same_run() -> None:
    ours, rival, alone = measured(("ours", "256/112"), ("neural-fast-patchswap", "256/112"), ("telea", "512/224"))
    assert ours["times_ours"] == 1 and ours["median_ms"] == 500 and ours["peak_memory_mib"] == 300
    assert rival["times_ours"] == 100 and rival["ours_ms"] == 500
    assert alone["times_ours"] is None


def test_what_does_not_fit_into_the_budget_is_not_started() -> None:
    first, second = measured(("neural-paper-patchswap", "256/112"), ("neural-paper-patchswap", "512/224"), budget=120)
    assert "median_ms" in first
    assert second["skipped"] == "over the time budget: needs about 206 s, 120 s are left"  # 50 s x 4 and the start


def test_ours_after_the_others_counts_as_much_as_before() -> None:
    times = iter([[1.0, 1.0], [300.0], [3.0, 3.0]])

    class Drifting(FakeWorker):
        def ask(self, job: dict[str, Any], seconds: float) -> dict[str, Any]:
            return {**super().ask(job, seconds), "times": next(times)}

    bench = Bench("cpu", 1000.0, new_worker=Drifting)
    for form in ("ours", "neural-fast-patchswap", "ours"):
        bench.measure(form, "256/112")
    ours, rival = bench.summaries()
    assert (ours["median_ms"], ours["runs"], ours["fastest_ms"], ours["p95_ms"]) == (2000, 4, 1000, 3000)
    assert ours["scale_ms"]["256x256"]["vgg"] == 10 and ours["others_percent"] == 2
    assert rival["times_ours"] == 150 and rival["ours_ms"] == 2000


def test_time_for_ours_after_the_others_is_kept() -> None:
    _, refused = measured(("ours", "256/112"), ("telea", "256/112"), budget=15)
    assert refused["skipped"] == "over the time budget: needs about 6 s, 3 s are left"  # 12 s are for ours


def test_others_take_what_the_machine_has_used_less_what_this_process_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    user, nice, system, idle, waiting, interrupt, soft_interrupt, stolen = 10, 1, 2, 99, 7, 0, 1, 3
    seconds = (user, nice, system, idle, waiting, interrupt, soft_interrupt, stolen)
    file = tmp_path / "stat"
    file.write_text("cpu " + " ".join(str(os.sysconf("SC_CLK_TCK") * each) for each in seconds) + " 0 0\n")
    monkeypatch.setattr(machine, "Path", lambda name: file)
    monkeypatch.setattr(os, "times", lambda: SimpleNamespace(user=4.0, system=1.0))
    used = user + nice + system + interrupt + soft_interrupt + stolen
    assert measure_pipeline.machine_seconds()[1] == pytest.approx(used - 5)


def test_plan() -> None:
    order = bench_pipeline.plan(["256/112", "1024/512"], ["telea", "neural-fast-patchswap"], "cpu")
    assert order == [
        ("ours", "256/112"),
        ("ours", "1024/512"),
        ("telea", "256/112"),
        ("telea", "1024/512"),
        ("neural-fast-patchswap", "256/112"),
        ("ours", "256/112"),
        ("ours", "1024/512"),
    ]
    assert bench_pipeline.plan(["256/112"], ["ours"], "cpu") == [("ours", "256/112")]
    assert all(form != "telea" for form, _ in bench_pipeline.plan(["256/112"], ["telea"], "cuda"))


def test_pieces_are_merged() -> None:
    first, second, third = ({"command": "x", "date": date} for date in ("one", "two", "three"))
    ours, telea = measured(("ours", "512/224"), ("telea", "256/112"))
    earlier = content([{**ours, "date": "one"}, {**telea, "date": "two"}])
    earlier["pieces"] = [first, second]
    skipped = {"form": "telea", "size": "256/112", "label": "", "group": "weight-free", "skipped": "", "date": "three"}
    again = content([{**ours, "median_ms": 400.0, "date": "three"}, skipped])
    merged = bench_pipeline.merge(earlier, {**again, "pieces": [third]})
    assert [(row["form"], row["median_ms"]) for row in merged["results"]] == [("telea", 50000), ("ours", 400)]
    assert merged["pieces"] == [second, third]  # nothing of the first is left


def test_command_names_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--vgg", "/home/someone/vgg.tar.gz", "--out", "benchmarks/results/a.json"])
    expected = "python benchmarks/bench_pipeline.py --vgg vgg.tar.gz --out benchmarks/results/a.json"
    assert bench_pipeline.command_line() == expected


def test_tables_and_plot(tmp_path: Path) -> None:
    rows = measured(("ours", "256/112"), ("neural-paper-patchswap", "256/112"), ("ours", "512/224"))
    assert tables.pipeline_times(rows).splitlines()[2:] == [
        "| patchswap | **0.500 s** | **0.500 s** |",
        "| neural inpainting, paper form | 50.0 s (100 x) | - |",
    ]
    stages = tables.pipeline_stages(rows).splitlines()
    assert stages[2].startswith("| 256/112 | 1 | 10 |") and stages[2].endswith("| 440 | **500** | 0.29 GiB |")
    pytest.importorskip("matplotlib")
    plot.draw_pipeline(content(rows), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
