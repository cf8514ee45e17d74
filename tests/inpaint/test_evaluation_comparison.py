"""Comparisons of small synthetic evaluations, from the numbers to the page and the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from inpaint.commands import main
from inpaint.errors import InpaintError
from inpaint.evaluation import evaluate
from inpaint.evaluation.comparison import compare
from inpaint.evaluation.measurement import read_csv
from inpaint.evaluation.uncertainty import bootstrap_intervals, sign_test

PHOTOGRAPHS = 5
KINDS = ["center", "thin"]


def bright(image: Tensor, hole: Tensor) -> Tensor:
    return torch.full_like(image, 0.9)


def grey(image: Tensor, hole: Tensor) -> Tensor:
    return torch.full_like(image, 0.5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Evaluations of two methods, and the photographs and masks they were made on."""
    base = tmp_path_factory.mktemp("comparison")
    random = np.random.default_rng(5)
    for kind in KINDS:
        (base / "masks" / kind).mkdir(parents=True)
    (base / "images").mkdir()
    for number in range(PHOTOGRAPHS):
        level = 60 + 40 * number  # the last ones are nearer to bright, the first ones to grey
        pixels = random.integers(level - 20, level + 20, (34, 36, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(base / "images" / f"{number}.png")
        for kind, hole in (("center", np.s_[10:24, 10:24]), ("thin", np.s_[16:18, 2:30])):
            mask = np.zeros((34, 36), dtype=np.uint8)
            mask[hole] = 255
            Image.fromarray(mask).save(base / "masks" / kind / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("INPAINT_LPIPS_WEIGHTS", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(base / "no-cache"))
        for method in (grey, bright):
            out = base / method.__name__
            evaluate(base / "images", base / "masks", method=method, out_dir=out, kinds=KINDS, progress=False)
    return {name: base / name for name in ("images", "masks", "grey", "bright")}


@pytest.fixture
def pair(folders: dict[str, Path]) -> dict[str, Path]:
    return {"ours": folders["grey"], "theirs": folders["bright"]}


def test_comparison_says_what_the_measurements_say(pair: dict[str, Path], tmp_path: Path) -> None:
    comparison = compare(pair, tmp_path / "out", seed=3, progress=False)
    summary = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert list(summary["methods"]) == ["ours", "theirs"] and summary["methods"]["ours"]["method"] == "grey"
    assert summary["images"] == PHOTOGRAPHS and list(summary["kinds"]) == KINDS
    for kind in KINDS:
        rows = {name: [row for row in read_csv(pair[name] / "per_image.csv") if row.kind == kind] for name in pair}
        found = summary["kinds"][kind]
        for metric, better in (("hole_l1", -1), ("psnr", 1), ("hole_ssim", 1)):
            ours, theirs = ([getattr(row, metric) for row in own] for own in rows.values())
            differences = np.array(ours) - np.array(theirs)
            paired = found["against"]["theirs"][metric]
            assert paired["difference"] == pytest.approx(differences.mean())
            (interval,) = bootstrap_intervals(differences[:, None], range(PHOTOGRAPHS), seed=3)
            assert paired["interval"] == pytest.approx(interval)
            wins = int((better * differences > 0).sum())
            assert (paired["wins"], paired["losses"], paired["ties"]) == (wins, PHOTOGRAPHS - wins, 0)
            assert paired["win_rate"] == wins / PHOTOGRAPHS
            assert paired["p"] == sign_test(wins, PHOTOGRAPHS - wins)
            assert found["methods"]["ours"][metric] == pytest.approx(np.mean(ours))
        assert "lpips" not in found["against"]["theirs"]
    assert 0 < summary["kinds"]["center"]["against"]["theirs"]["hole_l1"]["wins"] < PHOTOGRAPHS

    means = summary["kinds"]["center"]["methods"]["theirs"]
    low, high = means["intervals"]["l1"]
    assert f"| {means['l1']:.2f} [{low:.2f}, {high:.2f}] |" in comparison.table
    assert (tmp_path / "out" / "table.md").read_text() == comparison.table
    html = (tmp_path / "out" / "report.html").read_text()
    assert "http" not in html and html.count("<img") == html.count('src="data:image/webp;base64,')
    assert html.count("<img") == len(KINDS) * PHOTOGRAPHS * (2 + len(pair))  # input, truth and the methods
    assert not list((tmp_path / "out").glob(".*"))


def test_a_method_against_itself_is_all_ties(folders: dict[str, Path], tmp_path: Path) -> None:
    three = {"a": folders["grey"], "b": folders["grey"], "c": folders["bright"]}
    kinds = compare(three, tmp_path / "out", progress=False).summary["kinds"]
    itself = kinds["thin"]["against"]["b"]["l1"]
    assert (itself["difference"], itself["interval"], itself["ties"]) == (0, (0, 0), PHOTOGRAPHS)
    assert (itself["wins"], itself["losses"], itself["win_rate"], itself["p"]) == (0, 0, None, 1)
    assert kinds["thin"]["against"]["c"]["l1"]["difference"] != 0


def test_perfect_results_of_another_program(folders: dict[str, Path], tmp_path: Path) -> None:
    perfect = tmp_path / "perfect"
    evaluate(
        folders["images"],
        folders["masks"],
        method=folders["images"],
        out_dir=perfect,
        kinds=["thin"],
        progress=False,
    )
    with pytest.raises(InpaintError, match="5 are in only one of"):
        compare({"perfect": perfect, "grey": folders["grey"]}, tmp_path / "out", progress=False)
    found = compare({"perfect": perfect, "again": perfect}, tmp_path / "out", progress=False)
    paired = found.summary["kinds"]["thin"]["against"]["again"]
    assert paired["psnr"]["ties"] == PHOTOGRAPHS and paired["psnr"]["interval"] is None
    assert "seconds" not in paired and "PSNR dB | – |" in found.table
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert written["kinds"]["thin"]["against"]["again"]["psnr"]["difference"] is None


def other_pixels(folder: Path) -> None:
    path = folder / "per_image.csv"
    lines = path.read_text().splitlines()
    photograph = lines[1].split(",")[-2]
    path.write_text("\n".join([lines[0], *(line.replace(photograph, "0" * 64) for line in lines[1:])]) + "\n")


def other_mask(folder: Path) -> None:
    path = folder / "per_image.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], lines[-1][:-64] + "1" * 64]) + "\n")


def one_photograph_less(folder: Path) -> None:
    path = folder / "per_image.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def no_summary(folder: Path) -> None:
    (folder / "summary.json").unlink()


def broken_summary(folder: Path) -> None:
    (folder / "summary.json").write_text("[1, 2]")


def older_table(folder: Path) -> None:
    path = folder / "per_image.csv"
    path.write_text(path.read_text().replace("mask_sha256", "mask"))


def missing_strip(folder: Path) -> None:
    (folder / "strips" / "thin" / "3.webp").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_pixels, "the photograph of center/0 has other pixels in ours than in theirs"),
        (other_mask, "the mask of thin/4 has other pixels"),
        (one_photograph_less, "1 are in only one of ours and theirs, such as thin/4"),
        (no_summary, "expected a folder of `inpaint evaluate`, cannot read .*summary.json"),
        (broken_summary, "expected the summary of an evaluation in"),
        (older_table, "expected in .*per_image.csv the columns"),
        (missing_strip, "expected the picture .*thin/3.webp"),
    ],
)
def test_what_cannot_be_compared_is_said_before_any_work(spoil, message, pair: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(pair["theirs"], tmp_path / "spoilt")
    spoil(tmp_path / "spoilt")
    with pytest.raises(InpaintError, match=message) as caught:
        compare(pair | {"theirs": tmp_path / "spoilt"}, tmp_path / "out", progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_different_weights_of_lpips_are_not_mixed(pair: dict[str, Path], tmp_path: Path) -> None:
    for name, digest in (("ours", "1"), ("theirs", "2")):
        shutil.copytree(pair[name], tmp_path / name)
        path = tmp_path / name / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"lpips_weights": {"sha256": digest}}))
    with pytest.raises(InpaintError, match="expected LPIPS by the same weights"):
        compare({name: tmp_path / name for name in pair}, tmp_path / "out", progress=False)


def test_one_evaluation_is_none_to_compare_and_none_is_overwritten(pair: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InpaintError, match="at least two evaluations to compare, got 1"):
        compare({"ours": pair["ours"]}, tmp_path / "out", progress=False)
    with pytest.raises(InpaintError, match="expected a folder of its own for the comparison, got that of theirs"):
        compare(pair, pair["theirs"], progress=False)


def test_times_of_different_machines_are_pointed_out(pair: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(pair["theirs"], tmp_path / "elsewhere")
    path = tmp_path / "elsewhere" / "summary.json"
    content = json.loads(path.read_text())
    content["machine"]["processors"] += 1
    path.write_text(json.dumps(content))
    assert compare(pair, tmp_path / "same", progress=False).summary["notes"] == []
    notes = compare(pair | {"theirs": tmp_path / "elsewhere"}, tmp_path / "out", progress=False).summary["notes"]
    assert notes and notes[0] in (tmp_path / "out" / "report.html").read_text()


def test_command(folders: dict[str, Path], tmp_path: Path) -> None:
    def run(*arguments: object):
        return CliRunner().invoke(main, ["compare", *map(str, arguments), "--out", str(tmp_path / "out"), "--quiet"])

    done = run(folders["grey"], f"light={folders['bright']}")
    assert done.exit_code == 0, done.output
    assert "| grey | " in done.stdout and "| light | " in done.stdout
    assert done.stdout.rstrip().endswith(str(tmp_path / "out" / "report.html"))
    again = run(folders["grey"], folders["grey"])
    assert again.exit_code == 1 and "write NAME=" in again.stderr and again.stderr.count("\n") == 1
