from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from torch import Tensor

import inpaint
from inpaint import style_transfer
from inpaint.commands import main
from inpaint.errors import InpaintError
from inpaint.inpainter import Inpainter
from inpaint.style_transfer import luminance, style_size, stylize
from patchswap import ops, reference


@pytest.fixture(scope="module")
def inpainter() -> Inpainter:
    return inpaint.load(device="cpu")


def waves(height: int, width: int, seed: int = 0) -> Tensor:
    """A smooth, colourful picture (3, height, width) with some noise."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(height) / 16, torch.arange(width) / 16, indexing="ij")
    colours = torch.stack([torch.sin((3 + seed) * x + c * y) * torch.cos(y - c * x) for c in range(3)])
    return (0.5 + 0.35 * colours + 0.1 * torch.rand(3, height, width, generator=generator)).clamp(0, 1)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(9, 40), st.integers(9, 40))
@settings(max_examples=8, deadline=None)
def test_any_size(inpainter, height, width, style_height, style_width):
    painted = stylize(waves(height, width), waves(style_height, style_width, 1), inpainter=inpainter)
    assert painted.shape == (3, height, width) and painted.dtype == torch.float32
    assert painted.min() >= 0 and painted.max() <= 1


def test_a_batch_is_its_pictures_one_by_one(inpainter):
    batch, style = torch.stack([waves(30, 41), waves(30, 41, 2)]), waves(40, 40, 1)
    painted = stylize(batch, style, inpainter=inpainter)
    for one, expected in zip(painted, batch, strict=True):
        assert torch.equal(one, stylize(expected, style, inpainter=inpainter))


def test_deterministic(inpainter):
    content, style = waves(60, 52), waves(48, 64, 1)
    assert torch.equal(stylize(content, style, inpainter=inpainter), stylize(content, style, inpainter=inpainter))


def test_every_patch_comes_from_the_style(inpainter):
    """A style of two colours leaves no others; the content's brightness decides which."""
    content = torch.full((3, 64, 96), 0.1)
    content[:, :, 48:] = 0.9
    style = torch.tensor([0.0, 0.1, 0.5])[:, None, None].repeat(1, 96, 64)
    style[:, 48:] = torch.tensor([1.0, 0.8, 0.2])[:, None, None]
    painted = stylize(content, style, inpainter=inpainter)
    for columns, expected in ((slice(8, 36), style[:, 0, 0]), (slice(60, 88), style[:, -1, 0])):
        assert (painted[:, 8:-8, columns].mean((1, 2)) - expected).abs().max() < 0.06


def test_a_picture_in_its_own_style_stays(inpainter):
    """Every patch finds itself, and what the decoder loses is copied too."""
    picture = waves(96, 120)
    painted = stylize(picture, picture, inpainter=inpainter)
    assert (painted - picture).abs().mean() < 1e-3


def test_strength(inpainter):
    content, style = waves(50, 47), waves(64, 64, 1)
    assert torch.equal(stylize(content, style, strength=0), content)
    distances = [
        (stylize(content, style, strength=strength, inpainter=inpainter) - content).abs().mean()
        for strength in (1e-4, 0.5, 1.0)
    ]
    assert distances == sorted(distances) and distances[0] < 1e-3 and distances[-1] > 0.05


def test_tone_tells_smooth_surfaces_apart(inpainter):
    """Of a smooth dark and a rough bright part of the style, a bright smooth content gets the bright one."""
    content = torch.full((3, 48, 64), 0.9)
    content[:, :, 32:] = 0.1
    style = torch.full((3, 64, 96), 0.1)
    style[:, :, 48:] = 0.7 + 0.3 * torch.rand(1, 64, 48, generator=torch.Generator().manual_seed(0))

    def contrast(tone: float) -> float:
        painted = stylize(content, style, tone=tone, inpainter=inpainter)
        return (painted[:, 8:-8, 8:24].mean() - painted[:, 8:-8, 40:56].mean()).item()

    assert contrast(0.0) < 0 and contrast(0.35) > 0.1 and contrast(1.0) > 0.3


@pytest.fixture(scope="module")
def comparison(inpainter) -> style_transfer.Comparison:
    content, style = waves(120, 94)[None], waves(85, 104, 1)[None]
    features = [style_transfer.find_features(picture, inpainter) for picture in (content, style)]
    return style_transfer.Comparison((content, features[0]), (style, features[1]), style_transfer.DEFAULT_TONE)


def whole(bands: Iterator[Tensor]) -> Tensor:
    return torch.cat(list(bands), dim=1)


def agreement(index: Tensor, key_columns: int) -> float:
    """The share of patches that copy from beside what their left neighbour copies."""
    row, column = index // key_columns, index % key_columns
    beside = (row[..., 1:] == row[..., :-1]) & (column[..., 1:] == column[..., :-1] + 1)
    return beside.float().mean().item()


@pytest.mark.parametrize("weight", [0.05, 0.2, 1.0])
def test_the_patches_are_those_of_the_reference(comparison, weight):
    """In float64; rounding may decide where two patches are as good, and a few neighbours follow."""
    query, key = comparison.query(slice(None)).double(), comparison.key.double()
    matched = reference.match(query, key, None, None, 3, 1, "exact", "auto")[0][:, 0]
    assert (whole(comparison.match()) == matched).float().mean() > 0.99
    expected = reference.cohere(matched, query, key, None, None, weight, 6, 3)[0]
    found = whole(comparison.cohere(matched, weight))
    assert (found == expected).float().mean() > 0.98
    key_columns = key.shape[3] - 2
    assert agreement(found, key_columns) > agreement(matched, key_columns) + 0.05


@pytest.mark.parametrize("rows", [1, 2, 5, 13, 27])
def test_bands_change_no_patch(monkeypatch, comparison, rows):
    columns = comparison.query(slice(None)).shape[3]
    matched = whole(comparison.match())
    cohered = whole(comparison.cohere(matched, 0.2))
    monkeypatch.setattr(style_transfer, "_BAND", rows * columns)
    assert len(list(comparison.match())) == -(-matched.shape[1] // rows)
    assert torch.equal(whole(comparison.match()), matched)
    assert torch.equal(whole(comparison.cohere(matched, 0.2)), cohered)


def test_the_coherent_patches_are_painted(monkeypatch, inpainter):
    content, style = waves(60, 74), waves(85, 64, 1)
    indices = []

    class Recording(style_transfer.Comparison):
        def match(self) -> Iterator[Tensor]:
            query = self.query(slice(None))
            index = reference.match(query, self.key, None, None, 3, 1, "exact", "auto")[0][:, 0]
            indices.append(reference.cohere(index, query, self.key, None, None, 0.2, 6, 3)[0])
            yield indices[-1]

    coherent = stylize(content, style, coherence=0.2, inpainter=inpainter)
    plain = stylize(content, style, coherence=0, inpainter=inpainter)
    monkeypatch.setattr(style_transfer, "Comparison", Recording)
    expected = stylize(content, style, coherence=0, inpainter=inpainter)
    assert len(indices) == 1
    assert ((coherent - expected).abs() > 1e-4).float().mean() < 0.02
    assert (coherent - plain).abs().mean() > 0.01


def test_without_coherence_every_patch_is_matched_by_itself(monkeypatch, inpainter):
    content, style = waves(60, 74), waves(85, 64, 1)
    coherent = stylize(content, style, coherence=0.2, inpainter=inpainter)
    monkeypatch.setattr(style_transfer.Comparison, "cohere", lambda self, index, weight: iter([index]))
    matched = stylize(content, style, coherence=0.2, inpainter=inpainter)
    monkeypatch.setattr(style_transfer.Comparison, "cohere", lambda *_: pytest.fail("the match was changed"))
    assert torch.equal(stylize(content, style, coherence=0, inpainter=inpainter), matched)
    assert not torch.equal(matched, coherent)


def test_keep_colours(inpainter):
    content, style = 0.25 + waves(48, 48) / 2, 0.4 + waves(48, 48, 1) / 5  # nothing is clipped
    plain = stylize(content, style, inpainter=inpainter)
    kept = stylize(content, style, inpainter=inpainter, keep_colours=True)
    unclipped = (kept > 0) & (kept < 1)
    unclipped = unclipped.all(0)
    assert unclipped.float().mean() > 0.9
    assert torch.allclose(luminance(kept[None])[0, 0][unclipped], luminance(plain[None])[0, 0][unclipped], atol=1e-5)
    difference = kept - content
    assert torch.allclose(difference[0][unclipped], difference[2][unclipped], atol=1e-5)


@pytest.mark.parametrize("coherence, expected_steps", [(0, 2), (0.2, 3)])
def test_bands_and_tiles_change_nothing(inpainter, monkeypatch, coherence, expected_steps):
    content, style = waves(150, 201), waves(48, 60, 1)
    steps: list[tuple[int, int]] = []

    def paint() -> Tensor:
        steps.clear()
        settings = {"strength": 0.8, "coherence": coherence, "inpainter": inpainter}
        return stylize(content, style, on_progress=lambda *step: steps.append(step), **settings)

    whole = paint()
    assert steps == [(step, expected_steps) for step in range(1, expected_steps + 1)]
    monkeypatch.setattr(style_transfer, "_BAND", 500)
    monkeypatch.setattr(style_transfer, "_TILE", 16)
    parts = paint()
    assert len(steps) > 8 and steps[-1] == (len(steps), len(steps))
    assert (parts - whole).abs().max() < 1e-4


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "I;16"])
def test_modes(inpainter, mode):
    pixels = (waves(33, 38).permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    alpha = np.tile(np.arange(38, dtype=np.uint8), (33, 1))
    colour = Image.fromarray(pixels)
    image = Image.fromarray(np.asarray(colour.convert("L")).astype(np.uint16) * 257) if mode == "I;16" else colour
    image = image if mode == "I;16" else image.convert(mode)
    if "A" in mode:
        image.putalpha(Image.fromarray(alpha))
    style = Image.fromarray((waves(40, 40, 1).permute(1, 2, 0).numpy() * 255).astype(np.uint8))

    painted = stylize(image, style, inpainter=inpainter)
    assert painted.size == image.size and painted.mode == ("RGBA" if "A" in mode else "RGB")
    kept = stylize(image, style, inpainter=inpainter, keep_colours=True)
    assert kept.size == image.size and kept.mode == mode
    for result in (painted, kept):
        assert "A" not in mode or np.array_equal(np.asarray(result.getchannel("A")), alpha)
    unchanged = stylize(image, style, strength=0)
    assert unchanged.mode == mode and np.array_equal(np.asarray(unchanged), np.asarray(image))


def test_transparent_parts_of_the_style_are_white(inpainter):
    style = Image.fromarray((waves(40, 40, 1).permute(1, 2, 0).numpy() * 255).astype(np.uint8))
    style.putalpha(Image.fromarray(np.repeat([[0], [255]], 20, axis=0).astype(np.uint8) * np.ones(40, np.uint8)))
    flat = Image.new("RGB", style.size, "white")
    flat.paste(style, mask=style.getchannel("A"))
    content = waves(40, 40)
    assert torch.equal(stylize(content, style, inpainter=inpainter), stylize(content, flat, inpainter=inpainter))


@pytest.mark.parametrize(
    "style, content, options, expected",
    [
        ((400, 600), (1000, 800), {}, (400, 600)),
        ((2000, 3000), (4000, 3000), {}, (683, 1024)),
        ((2000, 3000), (300, 200), {}, (200, 300)),
        ((2000, 3000), (5, 3), {}, (85, 128)),
        ((400, 600), (600, 600), {"scale": 1.5}, (600, 900)),
        ((400, 600), (600, 600), {"scale": 0.5, "largest_style": 300}, (100, 150)),
    ],
)
def test_style_size(style, content, options, expected):
    assert style_size(style, content, **options) == expected


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"strength": -0.1}, "strength: expected a number from 0 to 1"),
        ({"strength": 1.5}, "strength: expected a number from 0 to 1"),
        ({"strength": float("nan")}, "strength: expected a number from 0 to 1"),
        ({"scale": 0}, "scale: expected a number above 0"),
        ({"scale": 0.1}, "9 pixels a side at the size it is taken, one 3x3 patch of features, got 4x4"),
        ({"scale": 101}, "at most 16 megapixels at the size it is taken, got 4040x4040"),
        ({"tone": -1}, "tone: expected a number from 0 on"),
        ({"coherence": -0.1}, "coherence: expected a number from 0 on, got -0.1; 0 matches every patch by itself"),
        ({"coherence": float("nan")}, "coherence: expected a number from 0 on"),
        ({"coherence": float("inf")}, "coherence: expected a number from 0 on"),
        ({"largest_style": 8}, "largest_style: expected at least 9 pixels"),
        ({"style": torch.rand(3, 8, 200)}, "9 pixels a side"),
        ({"style": torch.rand(1, 3, 40, 40)}, "style: expected a float tensor (3, H, W)"),
        ({"style": torch.full((3, 40, 40), 200.0)}, "style: expected values in [0, 1], got 200 to 200"),
        ({"content": torch.full((3, 40, 40), float("nan"))}, "content: expected values in [0, 1]"),
        ({"content": torch.rand(40, 40)}, "content: expected a float tensor (3, H, W) or (B, 3, H, W)"),
        ({"content": torch.zeros(3, 4, 4, dtype=torch.uint8)}, "content: expected a float tensor"),
        ({"content": torch.zeros(3, 0, 4)}, "content: expected at least one pixel"),
    ],
)
def test_errors_come_before_any_work(monkeypatch, arguments, message):
    monkeypatch.setattr(style_transfer, "load", lambda: pytest.fail("the networks were loaded"))
    with pytest.raises(InpaintError) as error:
        stylize(**{"content": waves(40, 40), "style": waves(40, 40, 1), **arguments})
    assert message in str(error.value)


# Prints the peak of the process's memory while a picture is painted, in KiB above what it held before.
PEAK_PROGRAM = """
import sys, torch, inpaint

def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

torch.manual_seed(0)
torch.set_num_threads(2)
inpainter = inpaint.load(device="cpu", precision="float32")
content, style = (torch.rand(3, int(side), int(side)) for side in sys.argv[1:])
inpaint.stylize(content[:, :64, :64], style[:, :64, :64], inpainter=inpainter)
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak counts from here
before = status("VmRSS")
inpaint.stylize(content, style, inpainter=inpainter)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(ops.extension is None, reason="the extension is not built")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_no_matrix_of_all_content_patches_times_all_style_patches():
    side = 512
    command = [sys.executable, "-c", PEAK_PROGRAM, str(side), str(side)]
    peak = 1024 * int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    matrix = 4 * ((side // 4 - 2) ** 2) ** 2
    assert peak < 384 << 20 < matrix / 2


def test_the_package_exports_it():
    assert inpaint.stylize is stylize


# The command


def run(*arguments: object):
    return CliRunner().invoke(main, ["stylize", *map(str, arguments)])


def failure(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stderr.splitlines()[-1].startswith("inpaint: ") and result.stdout == ""
    return result.stderr.splitlines()[-1]


@pytest.fixture
def files(tmp_path: Path) -> SimpleNamespace:
    content, style = tmp_path / "photo.png", tmp_path / "style.png"
    Image.fromarray((waves(45, 50).permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(content, dpi=(300, 300))
    Image.fromarray((waves(40, 60, 1).permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(style)
    return SimpleNamespace(content=content, style=style, out=tmp_path / "out.png", folder=tmp_path)


@pytest.fixture
def unloadable(monkeypatch) -> None:
    monkeypatch.setattr(inpaint, "load", lambda *_, **__: pytest.fail("the networks were loaded"), raising=False)


def test_command(files, inpainter):
    result = run(files.content, files.style, "-o", files.out, "--device", "cpu", "--scale", 1.5, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["size"] == [45, 50] and report["style_size"] == [60, 90]
    assert [line.split()[0] for line in result.stderr.splitlines()[1:-1]] == ["load", "stylize", "save"]
    saved = Image.open(files.out)
    assert saved.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    expected = stylize(Image.open(files.content), Image.open(files.style), scale=1.5, inpainter=inpainter)
    assert np.array_equal(np.asarray(saved), np.asarray(expected))
    assert sorted(path.name for path in files.folder.iterdir()) == ["out.png", "photo.png", "style.png"]


def test_command_with_coherence(files, inpainter):
    arguments = files.content, files.style, "-o", files.out, "--device", "cpu", "--overwrite", "--coherence"
    results = {}
    for coherence in (0, 0.4):
        assert run(*arguments, coherence).exit_code == 0
        saved = results[coherence] = np.asarray(Image.open(files.out))
        pictures = Image.open(files.content), Image.open(files.style)
        assert np.array_equal(saved, np.asarray(stylize(*pictures, coherence=coherence, inpainter=inpainter)))
    assert not np.array_equal(results[0], results[0.4])


def test_command_with_strength_0_writes_the_content(files):
    assert run(files.content, files.style, "-o", files.out, "--device", "cpu", "--strength", 0).exit_code == 0
    assert np.array_equal(np.asarray(Image.open(files.out)), np.asarray(Image.open(files.content)))


def test_command_drops_a_profile_for_grey_when_colours_come(files):
    grey = Image.open(files.content).convert("L")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey.save(files.content, icc_profile=profile)
    for option, mode in (("--keep-colors", "L"), ("--quiet", "RGB")):
        result = run(files.content, files.style, "-o", files.out, "--device", "cpu", option)
        assert result.exit_code == 0, result.output
        with Image.open(files.out) as saved:
            assert saved.mode == mode and ("icc_profile" in saved.info) == (mode == "L")
    assert result.output == ""


def test_command_names_problems_before_any_work(files, unloadable):
    Image.new("RGB", (400, 3)).save(files.folder / "strip.png")
    (files.folder / "text.png").write_text("no picture")
    assert "9 pixels a side" in failure(files.content, files.folder / "strip.png", "-o", files.out)
    assert "expected a PNG, JPEG" in failure(files.content, files.folder / "text.png", "-o", files.out)
    assert "cannot read" in failure(files.folder / "none.png", files.style, "-o", files.out)
    assert "the limit is 0.001" in failure(files.content, files.style, "-o", files.out, "--max-megapixels", 0.001)
    assert "expected a name ending in" in failure(files.content, files.style, "-o", files.folder / "out.psd")
    assert "the style picture itself" in failure(files.content, files.style, "-o", files.style)
    assert "allow it with --overwrite" in failure(files.content, files.style, "-o", files.content)
    assert run(files.content, files.style, "-o", files.out, "--strength", 1.5).exit_code == 2
    assert run(files.content, files.style, "-o", files.out, "--coherence", -1).exit_code == 2
    assert not files.out.exists()
