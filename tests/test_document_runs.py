"""The fenced commands and Python of the pages run, page after page, in an empty folder with a reader's files in it.

What is run is what the page says. Training gets one small step, and LPIPS is left out where its weights are not at
hand. tests/test_documents.py parses the rest: make and pip, the benchmarks, torchrun.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from document_code import commands, pieces

from inpaint.commands import main
from inpaint.evaluation.protocol import KINDS
from inpaint.networks import registry
from inpaint.networks.feature2image import Feature2ImageConfig

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/guide.md", "docs/method.md", "docs/training.md", "docs/evaluation.md")
ONE_SMALL_STEP = ["--steps", "1", "--batch", "1", "--workers", "0"]
PARSED_ONLY = ("pip", "make", "python", "pytest", "torchrun")


def photograph(name: str, height: int = 64, width: int = 96) -> None:
    generator = np.random.default_rng(len(name))
    Path(name).parent.mkdir(exist_ok=True)
    Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(name)


def mask(name: str) -> None:
    white = np.zeros((64, 96), dtype=np.uint8)
    white[20:40, 30:60] = 255
    Path(name).parent.mkdir(exist_ok=True)
    Image.fromarray(white).save(name)


def write_the_readers_files() -> None:
    """What the pages name as the reader's own, into the working directory."""
    for name in ("photo.jpg", "painting.jpg", "photos/1.jpg", "PHOTOGRAPHS/0001_dog.png", "PHOTOGRAPHS/0002_cat.png"):
        photograph(name)
    for number in range(8):
        photograph(f"photographs/{number}.jpg", 300, 300)
    for name in ("mask.png", "masks/1.png", *(f"MASKS/{kind}_000{n}.png" for kind in KINDS for n in (1, 2))):
        mask(name)
    painted = np.zeros((64, 96, 3), dtype=np.uint8)
    painted[20:40, 30:60] = (255, 0, 255)
    Image.fromarray(painted).save("painted.png")
    outline = {"points": [[30, 20], [60, 20], [60, 40]], "shape_type": "polygon"}
    Path("outline.json").write_text(json.dumps({"imageWidth": 96, "imageHeight": 64, "shapes": [outline]}))
    Path("card.md").write_text("A test.")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_the_readers_files()
    return tmp_path


def names_of_the_reader() -> dict[str, Any]:
    """What the Python of the pages takes as given."""
    image, mask = Image.open("photo.jpg").convert("RGB"), Image.open("mask.png")
    return {
        "image": image,
        "mask": mask,
        "content": image,
        "style": Image.open("painting.jpg").convert("RGB"),
        "nn": nn,
        "MyConfig": Feature2ImageConfig,
    }


def arguments(words: list[str]) -> list[str]:
    """Of an ``inpaint`` command, as it is run here."""
    if "--lpips-weights" in words:
        place = words.index("--lpips-weights")
        words = words[:place] + words[place + 2 :]
    return [*words[1:], *(ONE_SMALL_STEP if words[1] == "train" and words[2] != "export" else [])]


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md"])
def test_python_of_the_page_runs(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roles = {role: dict(names) for role, names in registry._ARCHITECTURES.items()}
    monkeypatch.setattr(registry, "_ARCHITECTURES", roles)
    for code in pieces((ROOT / page).read_text()):
        if code.fenced and code.language == "python":
            exec(compile(code.text, f"{page}:{code.line}", "exec"), names_of_the_reader())
            write_the_readers_files()


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_page_run(page: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = 0
    for code in pieces((ROOT / page).read_text()):
        if not code.fenced or code.language not in ("", "sh", "bash", "console"):
            continue
        for words in commands(code):
            if words[0] in PARSED_ONLY:
                continue
            assert words[0] == "inpaint", f"{page}:{code.line}: no rule for {words[0]}"
            with mock.patch.object(sys, "argv", words):
                assert not main(arguments(words), standalone_mode=False), (words, capsys.readouterr().err)
            if "-o" in words:
                assert os.path.getsize(words[words.index("-o") + 1]) > 0
            ran += 1
    assert ran or page == "docs/method.md"
