"""bench_clients.py: both forms of every use compute the same, and what is made of their measurements."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import bench_clients  # noqa: E402
from clients import USES  # noqa: E402


@pytest.mark.parametrize("name", USES)
def test_both_forms_compute_the_same(name: str) -> None:
    use = USES[name]
    inputs = {key: each.clone() for key, each in use.inputs(96).items()}
    ours, plain = use.ours(inputs), use.plain(inputs)
    assert [each.shape for each in ours] == [each.shape for each in plain]
    found = bench_clients.agreement(ours, plain)
    assert found["same_percent"] > 99.5, found
    assert all(float(each.abs().max()) > 0 for each in plain)


def test_agreement() -> None:
    plain = [torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([8.0, 0.0])]
    ours = [torch.tensor([1.0, 2.0, 3.0, 5.0]), torch.tensor([8.0, 0.004])]
    assert bench_clients.agreement(ours, plain) == {"same_percent": 75.0, "largest_difference": 0.25}


def test_a_run_writes_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "clients.json"
    options = ["--uses", "nearest-neighbour-loss", "--side", "128", "--seconds", "0", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["bench_clients.py", *options])
    assert bench_clients.main() == 0
    content = json.loads(out.read_text())
    (row,) = content["results"]
    assert row["use"] == "nearest-neighbour-loss" and row["same_percent"] > 99
    assert row["times_ours"] == pytest.approx(row["plain_ms"] / row["ours_ms"], rel=0.05)
    for memory in (row, row["held"]):
        assert memory["ours_memory_mib"] >= 0 and memory["plain_memory_mib"] > 0
        assert memory["floor_memory_mib"] == pytest.approx(256 * 32 * 32 * 4 / 2**20, abs=0.1)  # the gradient


def test_the_floor_is_the_same_step() -> None:
    """Results and gradients have the shapes of both forms."""
    use = USES["reference-super-resolution"]
    inputs = {key: each.clone() for key, each in use.inputs(64).items()}
    assert use.floor is not None
    assert [each.shape for each in use.floor(inputs)] == [each.shape for each in use.ours(inputs)]


def test_unknown_uses_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_clients.py", "--uses", "style-swap,gpnn"])
    with pytest.raises(SystemExit):
        bench_clients.parse_arguments()
    assert "--uses: expected names of style-swap" in capsys.readouterr().err
