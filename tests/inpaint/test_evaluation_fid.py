"""FID: what it refuses, and torch-fidelity's network and formula against a plain float64 one, with random weights."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inpaint.errors import InpaintError
from inpaint.evaluation import evaluate, fid
from inpaint.evaluation.fid import FID
from inpaint.photo import read


def test_missing_weights_are_said(tmp_path: Path) -> None:
    with pytest.raises(InpaintError, match="found no file .*absent.pth; give the path of weights-inception") as caught:
        FID(tmp_path / "absent.pth")
    assert "\n" not in str(caught.value)


def test_missing_package_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(InpaintError, match="expected torch-fidelity for FID.* pip install torch-fidelity") as caught:
        FID(tmp_path / "weights.pth")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network's own weights, random, in the form of the published file."""
    inception = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", exc_type=ImportError)
    generator = torch.Generator().manual_seed(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "load_state_dict_from_url", lambda *arguments, **options: {})
        patch.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = inception.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    state = network.state_dict()
    for name, tensor in state.items():
        if name.endswith("conv.weight"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / tensor[0].numel()) ** 0.5)
    path = tmp_path_factory.mktemp("fid") / "random.pth"
    torch.save(state, path)
    return path


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer of 64 features instead of 2048: the formula is the same and takes no time."""
    monkeypatch.setattr(fid, "FEATURES", "64")


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Heusel et al. 2017, equation 6; the root of the product through that of the symmetric form."""
    covariances = [np.cov(features, rowvar=False) for features in (first, second)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = vectors @ np.diag(np.sqrt(values.clip(min=0))) @ vectors.T
    middle = np.sqrt(np.linalg.eigvalsh(root @ covariances[1] @ root).clip(min=0)).sum()
    difference = first.mean(axis=0) - second.mean(axis=0)
    return float(difference @ difference + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * middle)


def test_distance_is_the_published_formula(weights: Path, shallow: None) -> None:
    metric = FID(weights)
    assert metric.known is False and metric.path == weights
    generator = torch.Generator().manual_seed(2)
    dark = [metric.features(torch.rand(3, 40, 50, generator=generator) * 0.7) for _ in range(6)]
    bright = [metric.features(0.3 + 0.7 * torch.rand(3, 40, 50, generator=generator)) for _ in range(7)]
    assert dark[0].shape == (64,) and dark[0].dtype == torch.float64
    expected = frechet_distance(torch.stack(dark).numpy(), torch.stack(bright).numpy())
    assert expected > 0.01
    assert metric.distance(dark, bright) == pytest.approx(expected, rel=1e-4)
    assert metric.distance(bright, dark) == pytest.approx(expected, rel=1e-4)
    assert abs(metric.distance(dark, dark)) < 1e-4 * expected


def test_evaluation_reports_it_and_says_of_how_many(
    weights: Path, shallow: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    random = np.random.default_rng(3)
    hole = np.zeros((32, 32), dtype=np.uint8)
    hole[8:24, 8:24] = 255
    for number in range(3):
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"images/{number}.png")
        Image.fromarray(hole).save(tmp_path / f"masks/center_{number}.png")
    evaluation = evaluate(
        tmp_path / "images",
        tmp_path / "masks",
        method="mean-colour",
        out_dir=tmp_path / "out",
        kinds=["center"],
        fid_weights=weights,
        progress=False,
    )
    metric = FID(weights)
    results, truths = (
        [metric.features(read(folder / f"{number}.png").colours()) for number in range(3)]
        for folder in (tmp_path / "out" / "results" / "center", tmp_path / "images")
    )
    distance = evaluation.summary["kinds"]["center"]["fid"]
    assert distance == pytest.approx(metric.distance(results, truths), rel=1e-9) and distance > 0
    assert f" {distance:.2f} |" in evaluation.table and "| FID |" in evaluation.table
    assert evaluation.summary["fid_weights"]["file"] == str(weights)
    assert "FID of center is over 3 photographs only: below 2048" in capsys.readouterr().err
    assert "over 3 photographs only" in (tmp_path / "out" / "report.html").read_text()


class Touch:
    """Unpickles by making a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (os.fspath(self.path),)


def test_other_files_are_refused_and_not_run(tmp_path: Path) -> None:
    pytest.importorskip("torch_fidelity", exc_type=ImportError)
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "program.pth").write_bytes(pickle.dumps(Touch(tmp_path / "ran"), protocol=2))
    torch.save({"weight": Touch(tmp_path / "ran")}, tmp_path / "zipped.pth")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "foreign.pth")
    for name in ("text", "program", "zipped", "foreign"):
        with pytest.raises(InpaintError, match=f"Inception network in .*{name}.pth, got something else") as caught:
            FID(tmp_path / f"{name}.pth")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
