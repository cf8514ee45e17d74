"""The evaluation end to end on two small synthetic photographs, and what it says when files do not fit."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from inpaint.errors import InpaintError
from inpaint.evaluation import evaluate, l1, metrics, named_method, pair_samples, pictures, psnr, ssim
from inpaint.evaluation.methods import mean_colour
from inpaint.photo import read

SIZES = {"007_stripes": (48, 40), "012_noise": (36, 52)}  # height, width


@pytest.fixture(autouse=True)
def no_lpips(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(metrics.LPIPS_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no-cache"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(3)
    for name, (height, width) in SIZES.items():
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        if "stripes" in name:
            pixels[:] = 40 + 20 * (np.arange(width) // 4 % 8)[None, :, None]
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "manifest.csv").write_text("not a photograph")
    return folder


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    folder = tmp_path / "masks"
    folder.mkdir()
    for name, (height, width) in SIZES.items():
        for kind, hole in (("center", np.s_[12:30, 10:26]), ("thin", np.s_[20:23, 0:30])):
            mask = np.zeros((height, width), dtype=np.uint8)
            mask[hole] = 255
            Image.fromarray(mask).save(folder / f"{kind}_{name[:3]}.png")
    return folder


def half_grey(image: Tensor, hole: Tensor) -> Tensor:
    """Grey everywhere: what it does to known pixels must not matter."""
    return torch.full_like(image, 0.5)


KINDS = ("center", "thin")


def test_whole_evaluation(images: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "out"
    evaluation = evaluate(images, masks, method=half_grey, out_dir=out, kinds=KINDS)
    printed = capsys.readouterr()
    assert evaluation.table in printed.out
    assert "LPIPS is left out" in printed.err and "PSNR and SSIM work without it" in printed.err

    assert [(row.kind, row.name) for row in evaluation.measurements] == [
        (kind, name) for kind in KINDS for name in SIZES
    ]
    for row in evaluation.measurements:
        truth = read(images / f"{row.name}.png").colours()
        hole = torch.from_numpy(np.array(Image.open(masks / f"{row.kind}_{row.name[:3]}.png")) > 0)
        result = read(out / "results" / row.kind / f"{row.name}.png").colours()
        assert torch.equal(result[:, ~hole], truth[:, ~hole])
        assert torch.all(result[:, hole] * 255 == 128)  # 127.5 rounded to 8 bits
        assert row.hole_l1 == l1(result, truth, hole).item() > row.l1 == l1(result, truth).item()
        assert row.hole_psnr == psnr(result, truth, hole).item() < row.psnr == psnr(result, truth).item()
        assert row.hole_ssim == ssim(result, truth, hole).item() < row.ssim == ssim(result, truth).item()
        assert row.hole_share == hole.double().mean().item()
        assert row.lpips is None
        assert row.seconds is not None and row.seconds > 0

    summary = json.loads((out / "summary.json").read_text())
    assert summary["method"] == "half_grey"
    assert summary["images"] == 2
    assert summary["lpips_weights"] is None
    assert summary["versions"]["torch"] == torch.__version__
    assert summary["command"] and summary["machine"]["platform"]
    for kind in KINDS:
        rows = [row for row in evaluation.measurements if row.kind == kind]
        means = summary["kinds"][kind]
        assert means["images"] == 2 and means["without_mask"] == 0 and means["lpips"] is None
        assert means["hole_l1"] == pytest.approx(sum(row.hole_l1 for row in rows) / 2)
        assert means["ssim"] == pytest.approx(sum(row.ssim for row in rows) / 2)
        low, high = means["intervals"]["hole_l1"]
        assert low == min(row.hole_l1 for row in rows) < means["hole_l1"] < high == max(row.hole_l1 for row in rows)
        assert means["intervals"]["lpips"] is None
        assert f"| {kind} | 2 | {means['hole_l1']:.2f} [{low:.2f}, {high:.2f}] | " in evaluation.table
        assert f"| {means['ssim']:.3f} [" in evaluation.table
    assert "| FID |" not in evaluation.table and "| LPIPS |" not in evaluation.table
    shares = [row.hole_share for row in evaluation.measurements]
    assert [found["images"] for found in summary["hole_shares"].values()] == [2, 2]
    assert list(summary["hole_shares"]) == ["0-10 %", "10-20 %"]
    for found in summary["hole_shares"].values():
        inside = [share for share in shares if found["from"] <= share < found["to"]]
        assert found["hole_share"] == pytest.approx(sum(inside) / 2)
    assert (out / "table.md").read_text() == evaluation.table

    with (out / "per_image.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 4
    assert float(table[0]["hole_l1"]) == evaluation.measurements[0].hole_l1
    assert table[0]["lpips"] == ""
    for kind in KINDS:
        with Image.open(out / "sheets" / f"{kind}_1.png") as sheet:
            assert sheet.width > 5 * pictures.TILE and sheet.height > pictures.TILE
        for name, (height, width) in SIZES.items():
            tiles = pictures.cut_strip(out / "strips" / kind / f"{name}.webp")
            for tile in tiles.values():
                assert tile.width / tile.height == pytest.approx(width / height, rel=0.02)
    assert not [path for path in out.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"]


def test_the_method_does_not_see_the_truth(images: Path, masks: Path, tmp_path: Path) -> None:
    seen = []

    def spy(image: Tensor, hole: Tensor) -> Tensor:
        assert image.dtype == torch.float32 and hole.dtype == torch.bool and image.shape[1:] == hole.shape
        seen.append(image[:, hole].abs().max().item())
        return image

    evaluate(images, masks, method=spy, out_dir=tmp_path / "out", kinds=["center"], progress=False)
    assert seen == [0, 0, 0]  # one warm-up call


def test_perfect_results_read_from_a_folder(images: Path, masks: Path, tmp_path: Path) -> None:
    evaluation = evaluate(images, masks, method=images, out_dir=tmp_path / "out", kinds=["thin"], progress=False)
    assert [row.hole_l1 for row in evaluation.measurements] == [0, 0]
    assert "inf" in evaluation.table
    means = json.loads((tmp_path / "out" / "summary.json").read_text())["kinds"]["thin"]
    assert means["psnr"] is None and means["seconds"] is None
    assert means["intervals"]["psnr"] is None and means["intervals"]["hole_l1"] == [0, 0]
    assert means["ssim"] == pytest.approx(1)


def test_own_results_measure_the_same_when_read_back(images: Path, masks: Path, tmp_path: Path) -> None:
    first = evaluate(images, masks, method="mean-colour", out_dir=tmp_path / "a", kinds=KINDS, progress=False)
    results = tmp_path / "a" / "results"
    again = evaluate(images, masks, method=results, out_dir=tmp_path / "b", kinds=KINDS, progress=False)
    assert first.summary["method"] == "mean-colour" and again.summary["method"] == str(results)
    for one, other in zip(first.measurements, again.measurements, strict=True):
        assert (one.kind, one.name, one.hole_l1, one.ssim) == (other.kind, other.name, other.hole_l1, other.ssim)
        assert other.seconds is None


def test_results_of_another_program_must_be_complete_and_fit(images: Path, masks: Path, tmp_path: Path) -> None:
    results = tmp_path / "theirs"
    (results / "thin").mkdir(parents=True)
    Image.new("RGB", (40, 48)).save(results / "thin_007.png")
    with pytest.raises(InpaintError, match=r"each of the 2 pairs.* 1 are missing; name them like thin/012_noise.png"):
        evaluate(images, masks, method=results, out_dir=tmp_path / "out", kinds=["thin"], progress=False)
    Image.new("RGB", (40, 48)).save(results / "thin" / "012_noise.jpg")
    with pytest.raises(InpaintError, match=r"result of 52x36 pixels .* has 40x48"):
        evaluate(images, masks, method=results, out_dir=tmp_path / "out", kinds=["thin"], progress=False)


def test_lpips_is_measured_when_its_weights_are_given(
    images: Path, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    tensors = {}
    for layer, ((index, _, _), shape) in enumerate(zip(metrics.LPIPS.CONVOLUTIONS, metrics.LPIPS.SHAPES, strict=True)):
        tensors[f"features.{index}.weight"] = torch.randn(shape, generator=torch.Generator().manual_seed(layer)) / 20
        tensors[f"features.{index}.bias"] = torch.zeros(shape[0])
        tensors[f"lin{layer}.weight"] = torch.ones(1, shape[0], 1, 1)
    weights = tmp_path / "weights.safetensors"
    save_file(tensors, weights)
    evaluation = evaluate(
        images, masks, method=half_grey, out_dir=tmp_path / "out", kinds=KINDS, lpips_weights=weights, progress=False
    )
    assert all(row.lpips is not None and row.lpips > 0 for row in evaluation.measurements)
    facts = evaluation.summary["lpips_weights"]
    assert (tmp_path / "out" / "report.html").read_text().count("LPIPS ↓") == 2  # both tables
    assert facts["file"] == str(weights) and facts["known"] is False and len(facts["sha256"]) == 64
    with pytest.raises(InpaintError, match="expected the weights of LPIPS"):
        evaluate(images, masks, method=half_grey, out_dir=tmp_path / "no", kinds=KINDS, lpips_weights=tmp_path / "x")
    assert not (tmp_path / "no").exists()


# Pairing


def test_masks_in_folders_per_kind_and_limits(images: Path, masks: Path, tmp_path: Path) -> None:
    nested = tmp_path / "nested"
    (nested / "thin").mkdir(parents=True)
    for name in SIZES:
        (masks / f"thin_{name[:3]}.png").rename(nested / "thin" / f"{name}.png")
    samples, unpaired = pair_samples(images, nested, ["thin"])
    assert [(sample.image.stem, sample.mask) for sample in samples] == [
        (name, nested / "thin" / f"{name}.png") for name in SIZES
    ]
    assert unpaired == {"thin": 0}
    assert len(pair_samples(images, masks, ["center"], limit=1)[0]) == 1


def test_photographs_without_a_mask_are_counted(images: Path, masks: Path, tmp_path: Path) -> None:
    (masks / "thin_012.png").unlink()
    evaluation = evaluate(images, masks, method=half_grey, out_dir=tmp_path / "out", kinds=KINDS, progress=False)
    assert [row.name for row in evaluation.measurements if row.kind == "thin"] == ["007_stripes"]
    assert evaluation.summary["kinds"]["thin"]["without_mask"] == 1
    assert evaluation.summary["kinds"]["center"]["without_mask"] == 0


def missing_images(images: Path, masks: Path) -> None:
    images.rename(images.with_name("moved"))


def no_photographs(images: Path, masks: Path) -> None:
    for path in images.glob("*.png"):
        path.unlink()


def missing_masks(images: Path, masks: Path) -> None:
    masks.rename(masks.with_name("moved"))


def no_masks_of_a_kind(images: Path, masks: Path) -> None:
    for path in masks.glob("thin_*"):
        path.rename(masks / path.name.replace("thin", "slim"))


def same_name_twice(images: Path, masks: Path) -> None:
    Image.new("RGB", (40, 48)).save(images / "007_stripes.jpg")


def other_size(images: Path, masks: Path) -> None:
    Image.new("L", (41, 48), 255).save(masks / "thin_007.png")


def empty_mask(images: Path, masks: Path) -> None:
    Image.new("L", (52, 36)).save(masks / "thin_012.png")


def full_mask(images: Path, masks: Path) -> None:
    Image.new("L", (52, 36), 255).save(masks / "thin_012.png")


def tiny_photograph(images: Path, masks: Path) -> None:
    Image.new("RGB", (30, 48)).save(images / "001_tiny.png")
    hole = Image.new("L", (30, 48))
    hole.putpixel((3, 3), 255)
    hole.save(masks / "thin_001.png")
    hole.save(masks / "center_001.png")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing_images, "expected a folder of photographs, there is none at .*images"),
        (no_photographs, "expected photographs in .*images, it holds none"),
        (missing_masks, "expected a folder of masks, there is none at .*masks"),
        (no_masks_of_a_kind, "expected masks of the kind thin .* like thin/007_stripes.png or thin_007.png"),
        (same_name_twice, "007_stripes is there twice"),
        (other_size, "thin_007.png is 41x48, the photograph is 40x48"),
        (empty_mask, "thin_012.png is all known"),
        (full_mask, "thin_012.png is all hole"),
        (tiny_photograph, "at least 31x31 pixels, .*001_tiny.png has 30x48"),
    ],
)
def test_what_does_not_fit_is_said_before_any_work(spoil, message: str, images: Path, masks: Path, tmp_path: Path):
    spoil(images, masks)

    def never(image: Tensor, hole: Tensor) -> Tensor:
        pytest.fail("the method was called")

    with pytest.raises(InpaintError, match=message) as caught:
        evaluate(images, masks, method=never, out_dir=tmp_path / "out", kinds=KINDS, progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": []}, "different kinds of masks, got none"),
        ({"kinds": ["thin", "thin"]}, "different kinds of masks, got thin, thin"),
        ({"kinds": ["../thin"]}, "expected a kind of letters"),
        ({"limit": 0}, "a limit of at least 1 photograph, got 0"),
    ],
)
def test_bad_options(options: dict, message: str, images: Path, masks: Path, tmp_path: Path) -> None:
    with pytest.raises(InpaintError, match=message):
        evaluate(images, masks, method=half_grey, out_dir=tmp_path / "out", **options)


@pytest.mark.parametrize(
    "wrong", [lambda image, hole: image[:, 1:], lambda image, hole: torch.full_like(image, float("nan"))]
)
def test_a_method_that_returns_nonsense(wrong, images: Path, masks: Path, tmp_path: Path) -> None:
    with pytest.raises(InpaintError, match="expected a finite image of shape .* for .*007_stripes.png"):
        evaluate(images, masks, method=wrong, out_dir=tmp_path / "out", kinds=["thin"], progress=False)


def test_a_file_where_the_output_folder_should_be(images: Path, masks: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(InpaintError, match="cannot make the folder"):
        evaluate(images, masks, method=half_grey, out_dir=tmp_path / "out", kinds=["thin"], progress=False)


# Baselines


def test_mean_colour_is_that_of_the_known_pixels() -> None:
    image = torch.zeros(3, 4, 4)
    image[0], image[1, :2], image[2, 3] = 1.0, 100 / 255, 10 / 255
    hole = torch.zeros(4, 4, dtype=torch.bool)
    hole[:1] = True
    filled = mean_colour(image, hole)
    torch.testing.assert_close(255 * filled[:, 0, 0], torch.tensor([255.0, 33.0, 3.0]))  # 400 / 12 and 40 / 12
    assert torch.equal(filled[:, 1:], image[:, 1:])


@pytest.mark.parametrize("name", ["telea", "ns"])
def test_opencv_continues_a_gradient(name: str) -> None:
    pytest.importorskip("cv2")
    ramp = torch.linspace(0.1, 0.9, 40).expand(3, 36, 40).clone()
    hole = torch.zeros(36, 40, dtype=torch.bool)
    hole[10:20, 12:22] = True
    filled = named_method(name)(ramp.masked_fill(hole, 0), hole)
    assert l1(filled, ramp, hole) < 5 < l1(mean_colour(ramp, hole), ramp, hole)


def test_import_needs_neither_opencv_nor_matplotlib() -> None:
    code = (
        "import sys; sys.modules['cv2'] = sys.modules['matplotlib'] = sys.modules['tqdm'] = None\n"
        "from inpaint.evaluation import named_method\n"
        "from inpaint.errors import InpaintError\n"
        "named_method('mean-colour')\n"
        "try: named_method('telea')\n"
        "except InpaintError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install opencv-python-headless" in done.stdout
