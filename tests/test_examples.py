"""The examples run, and do what they say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from torch import Tensor

import patchswap
from inpaint.evaluation.metrics import psnr
from inpaint.photo import read, save_picture, to_pil

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def photograph(name: str, height: int, width: int) -> Tensor:
    """The upper left part of an example, (1, 3, height, width)."""
    return read(EXAMPLES / "photos" / name).colours()[None, :, :height, :width]


def test_style_swap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = load("style_swap")
    content, style = photograph("chelsea.png", 62, 75), photograph("coffee.png", 50, 90)
    painted = example.style_swap(content, style)
    assert painted.shape == content.shape and painted.min() >= 0 and painted.max() <= 1
    with torch.inference_mode():
        of_content, of_style = (example.NETWORKS.vgg.relu3_1(each) for each in (content, style))
        found = patchswap.match(of_content, of_style)
        swapped = patchswap.fold(found.index, of_style, output_size=(of_content.shape[2], of_content.shape[3]))
        expected = example.NETWORKS.feature2image(swapped)[..., :62, :75]
    torch.testing.assert_close(painted, expected, rtol=1e-4, atol=1e-4)

    files = [str(tmp_path / name) for name in ("content.png", "style.png", "painted.png")]
    for file, picture in zip(files, (content, style), strict=False):
        save_picture(file, to_pil(picture[0]))
    monkeypatch.setattr(sys, "argv", ["style_swap.py", *files[:2], "-o", files[2]])
    example.main()
    assert (read(files[2]).colours() - painted[0]).abs().max() < 0.02


def test_detail_transfer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = load("detail_transfer")
    whole = photograph("coffee.png", 200, 300)[..., 40:137, 60:180]
    reference, truth = whole[..., :90, :100], whole[..., 7:, 13:]  # the picture shows a little more than the reference
    picture = example.blurred(truth, 1.5)
    sharper = example.transfer_detail(picture, reference, 1.5)
    assert sharper.shape == picture.shape and sharper.min() >= 0 and sharper.max() <= 1
    assert psnr(sharper[0], truth[0]) > psnr(picture[0], truth[0]) + 2
    flat = torch.full_like(reference, 0.5)
    torch.testing.assert_close(example.transfer_detail(picture, flat, 1.5), picture)  # no detail to give

    files = [str(tmp_path / name) for name in ("picture.png", "reference.png", "sharper.png")]
    for file, each in zip(files, (picture, reference), strict=False):
        save_picture(file, to_pil(each[0]))
    monkeypatch.setattr(sys, "argv", ["detail_transfer.py", *files[:2], "--blur", "1.5", "-o", files[2]])
    example.main()
    assert Image.open(files[2]).size == (107, 90)
    monkeypatch.setattr(sys, "argv", ["detail_transfer.py", *files[:2], "--blur", "0", "-o", files[2]])
    with pytest.raises(SystemExit):
        example.main()


def test_blur_is_a_gaussian() -> None:
    example = load("detail_transfer")
    point = torch.zeros(1, 3, 25, 25)
    point[..., 12, 12] = 1
    spread = example.blurred(point, 1.5)
    offsets = torch.arange(25.0) - 12
    assert spread.sum((2, 3)) == pytest.approx(torch.ones(1, 3), abs=1e-5)
    assert (spread[0, 0].sum(0) * offsets.square()).sum() == pytest.approx(1.5**2, rel=0.05)
    torch.testing.assert_close(example.blurred(torch.full((1, 3, 5, 9), 0.25), 3.0), torch.full((1, 3, 5, 9), 0.25))


@pytest.mark.skipif(not (EXAMPLES / "three_stages.ipynb").exists(), reason="no notebook here")
def test_notebook_runs_and_is_stored_without_outputs() -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(EXAMPLES / "three_stages.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    resources = {"metadata": {"path": str(EXAMPLES)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    shown = [output for cell in code for output in cell.outputs if output.get("data", {}).get("image/png")]
    assert len(shown) == 5
    assert "patches were replaced" in str([output for cell in code for output in cell.outputs])
