"""The script behind docs/training.md's comparison: runs that begin alike, and differences against them."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import held_out  # noqa: E402
import judge_learning  # noqa: E402
import training_choices  # noqa: E402

from inpaint import weights  # noqa: E402
from inpaint.evaluation.protocol import pair_samples  # noqa: E402
from inpaint.training.config import from_dict  # noqa: E402


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(52):  # two of them are held out
        pixels = torch.randint(256, (8, 10, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).resize((110, 100)).save(folder / f"{number:02}.png")
    return folder


def test_choices_are_trained_and_measured(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = {"image_size": 32, "zoom": (1.0, 1.1), "batch": 1, "adversarial_start": 0, "warmup": 0, "log_every": 1}
    monkeypatch.setattr(training_choices, "SHORT_RUN", tiny)
    monkeypatch.setattr(held_out, "SIDE", 96)
    monkeypatch.setattr(held_out, "HOLE", 40)
    monkeypatch.setattr(training_choices, "LPIPS", lambda _: lambda first, second: (first - second).square().mean())
    command = ["training_choices.py", "--data", str(photographs), "--out", str(tmp_path / "runs"), "--steps", "1"]
    monkeypatch.setattr(
        sys, "argv", [*command, "--choices", "hinge", "detail", "--photographs", "9", "--last", "detail"]
    )
    training_choices.main()
    content = json.loads((tmp_path / "runs" / "training-choices.json").read_text())
    assert content["photographs"] == 2 and content["judge_loss"].keys() == {"hinge", "detail"}
    rows = {(row["choice"], row["weights"]): row for row in content["results"]}
    assert list(rows) == [
        ("start", "averaged"),
        ("hinge", "averaged"),
        ("detail", "averaged"),
        ("detail", "generator"),
    ]
    start, hinge, other = (rows[name, "averaged"] for name in ("start", "hinge", "detail"))
    assert all(loss == pytest.approx(2, abs=0.5) for loss in content["judge_loss"].values())
    assert "start" not in start and "hinge" not in hinge and start["lpips"] != hinge["lpips"] != other["lpips"]
    assert other["hinge"]["lpips"]["mean"] == pytest.approx(other["lpips"] - hinge["lpips"])
    assert other["start"]["ssim"]["mean"] == pytest.approx(other["ssim"] - start["ssim"])


def test_held_out_photographs_pair_with_their_masks(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_out, "SIDE", 96)
    monkeypatch.setattr(held_out, "HOLE", 40)
    monkeypatch.setattr(
        sys, "argv", ["held_out.py", "--data", str(photographs), "--out", str(tmp_path / "out"), "--count", "2"]
    )
    held_out.main()
    samples, without = pair_samples(tmp_path / "out" / "photographs", tmp_path / "out" / "masks")
    assert len(samples) == 2 * 4 and not any(without.values())
    with Image.open(samples[1].image) as written, Image.open(photographs / "50.png") as whole:
        assert np.array_equal(written, whole.crop((7, 2, 103, 98)))


def test_a_discriminator_of_detail_learns_too(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = {"image_size": 32, "zoom": (1.0, 1.1), "batch": 1, "learning_rate_discriminator": 1e-3}
    monkeypatch.setattr(judge_learning, "SHORT_RUN", tiny)
    command = ["judge_learning.py", "--data", str(photographs), "--out", str(tmp_path / "out.json"), "--steps", "5"]
    monkeypatch.setattr(sys, "argv", command)
    judge_learning.main()
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    kinds = list(itertools.product(("the picture", "its detail"), (True, False), judge_learning.RATES))
    assert [(row["sees"], row["spectral_norm"], row["rate"]) for row in results] == kinds
    assert all(row["steps"] == [1, 2, 3, 4, 5] and 1 < row["loss"][0] < 3 for row in results)


def test_choices_are_settings_of_training() -> None:
    for _, changes in training_choices.CHOICES.values():
        from_dict({**training_choices.SHORT_RUN, **changes})


def test_a_picture_is_completed_once() -> None:
    calls = []

    class Painter(torch.nn.Module):
        def forward(self, image: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
            calls.append(image)
            return image + 1

    network = training_choices.Remembering(Painter())
    image, hole = torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.bool)
    assert torch.equal(network(image, hole), network(image.clone(), hole)) and len(calls) == 1
    assert torch.equal(network(image + 1, hole), image + 2) and len(calls) == 2


def test_a_decoder_has_the_sizes_of_the_one_it_began_from(tmp_path: Path) -> None:
    from inpaint.tensor_file import write_tensors

    trained = weights.load().feature2image
    tensors = {f"averaged.{name}": value + 1 for name, value in trained.state_dict().items()}
    write_tensors(tmp_path / "checkpoint.safetensors", tensors, {})
    found = training_choices.decoder(tmp_path / "checkpoint.safetensors", "averaged", trained)
    assert torch.equal(found.to_rgb.bias, trained.to_rgb.bias + 1) and not found.training
