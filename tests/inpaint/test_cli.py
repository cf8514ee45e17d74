from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from click.testing import CliRunner, Result
from PIL import Image

import inpaint
from inpaint.commands import main
from inpaint.commands.common import extra
from inpaint.errors import InpaintError
from inpaint.holes import dilate_hole
from inpaint.match_field import DIM, draw_match_field
from inpaint.photo import read, save_picture, to_pil


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def failure(*arguments: object) -> str:
    """The one line of an expected error."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    lines = result.stderr.splitlines()
    assert lines[-1].startswith("inpaint: ") and "Traceback" not in result.output
    assert result.stdout == ""
    return lines[-1]


@pytest.fixture
def unloadable(monkeypatch) -> None:
    """Whatever is wrong must be found before the networks are loaded."""

    def load(*arguments, **options):
        raise AssertionError("the networks were loaded")

    monkeypatch.setattr(inpaint, "load", load, raising=False)


@pytest.fixture
def files(tmp_path) -> SimpleNamespace:
    """A photograph of 40x32 pixels and a mask with a quarter of hole."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    hole = np.zeros((32, 40), dtype=bool)
    hole[8:24, 10:30] = True
    image, mask = tmp_path / "photo.png", tmp_path / "mask.png"
    Image.fromarray(pixels).save(image)
    Image.fromarray(hole).save(mask)
    return SimpleNamespace(image=image, mask=mask, out=tmp_path / "out.png", folder=tmp_path, pixels=pixels, hole=hole)


def mask_of(files: SimpleNamespace, value: int) -> Path:
    Image.new("L", (40, 32), value).save(files.folder / "plain.png")
    return files.folder / "plain.png"


# Filling


def test_fill_changes_the_hole_and_nothing_else(fake, files):
    result = run("fill", files.image, files.mask, "-o", files.out)
    assert result.exit_code == 0, result.output
    saved = np.asarray(Image.open(files.out))
    assert np.array_equal(saved[~files.hole], files.pixels[~files.hole])
    assert (saved[files.hole] == (255, 0, 0)).all()
    assert np.array_equal(fake.job.picture.samples, files.pixels) and np.array_equal(fake.job.hole, files.hole)
    assert fake.loaded == ("default", "auto", "auto", None) and fake.job.scales is None
    assert result.stdout == ""


def test_progress_is_one_line_a_stage_on_stderr(fake, files):
    lines = run("fill", files.image, files.mask, "-o", files.out).stderr.splitlines()
    assert lines[0].endswith("photo.png: 40x32, hole 25.0%")
    assert [line.split()[0] for line in lines[1:-1]] == ["load", "infer", "vgg", "match", "translate", "blend", "save"]
    assert lines[4].split() == ["match", "40x32", "0.25", "s"]
    assert lines[-1].startswith(f"{files.out}: done in ")


def test_quiet_says_nothing_and_json_is_one_object(fake, files):
    result = run("fill", files.image, files.mask, "-o", files.out, "--quiet")
    assert (result.stdout, result.stderr) == ("", "")
    result = run("fill", files.image, files.mask, "-o", files.out, "--json", "--quiet")
    report = json.loads(result.stdout)
    assert result.stderr == ""
    assert report["size"] == [32, 40] and report["hole_share"] == pytest.approx(0.25)
    assert report["windows"] == [{"crop": [0, 0, 32, 40], "scales": [[32, 40]]}]
    assert report["output"] == str(files.out) and report["notes"] == []
    assert {"name": "match", "size": [32, 40], "seconds": 0.25} in report["stages"]
    assert report["seconds"] > 0


def test_options_reach_mask_and_pipeline(fake, files):
    soft = files.folder / "soft.png"
    Image.fromarray(np.where(files.hole, 100, 255).astype(np.uint8)).save(soft)
    arguments = ["--invert-mask", "--threshold", "0.45", "--dilate", 2, "--scales", "16,32"]
    arguments += ["--device", "cpu", "--weights", "mine.safetensors", "--precision", "float32", "--max-memory", "0.5"]
    result = run("fill", files.image, soft, "-o", files.out, *arguments)
    assert result.exit_code == 0, result.output
    grown = np.zeros_like(files.hole)
    grown[6:26, 8:32] = True
    assert np.array_equal(fake.job.hole, grown)
    assert fake.job.scales == (16, 32) and fake.loaded == ("mine.safetensors", "cpu", "float32", 2**29)


def test_stages_are_saved_as_pictures(fake, files):
    steps = files.folder / "deep" / "steps"
    result = run("fill", files.image, files.mask, "-o", files.out, "--save-stages", steps)
    assert result.exit_code == 0, result.output
    sizes = {path.name: Image.open(path).size for path in steps.iterdir()}
    assert sizes == {
        "mask.png": (40, 32),
        "coarse.png": (20, 16),
        "scale1_40x32_after_swap.png": (40, 32),
        "scale1_40x32_result.png": (40, 32),
        "scale1_40x32_match_field.png": (40, 32),
    }
    assert np.array_equal(np.asarray(Image.open(steps / "mask.png").convert("L")), files.hole * np.uint8(255))
    assert (np.asarray(Image.open(steps / "scale1_40x32_after_swap.png")) == (255, 0, 0)).all()


def test_stages_of_several_windows_have_the_numbers_of_these_in_their_names(fake, files):
    hole = np.zeros((48, 800), dtype=bool)
    hole[20:30, 20:30] = hole[20:30, 770:780] = True
    image, mask, steps = files.folder / "wide.png", files.folder / "two.png", files.folder / "steps"
    Image.new("RGB", (800, 48)).save(image)
    Image.fromarray(hole).save(mask)
    result = run("fill", image, mask, "-o", files.out, "--save-stages", steps, "--json")
    windows = json.loads(result.stdout)["windows"]
    assert len(windows) == 2 and windows[0]["crop"][1] == 0 and windows[1]["crop"][3] == 800
    names = {path.name for path in steps.iterdir()}
    for number, window in enumerate(windows, 1):
        top, left, bottom, right = window["crop"]
        scale = f"window{number}_scale1_{right - left}x{bottom - top}"
        kinds = ("after_swap", "result", "match_field")
        assert {f"window{number}_coarse.png", *(f"{scale}_{kind}.png" for kind in kinds)} < names
    assert len(names) == 1 + 2 * 4 and "mask.png" in names


def test_the_input_is_only_overwritten_on_demand(fake, files):
    before = files.image.read_bytes()
    link = files.folder / "link.png"
    link.symlink_to(files.image)
    for output in (files.image, link, files.folder / ".." / files.folder.name / "photo.png"):
        assert "is the input photograph itself" in failure("fill", files.image, files.mask, "-o", output)
    assert files.image.read_bytes() == before
    for options in ([], ["--overwrite"]):
        assert "is the mask itself" in failure("fill", files.image, files.mask, "-o", files.mask, *options)
    assert run("fill", files.image, files.mask, "-o", files.image, "--overwrite").exit_code == 0
    assert (np.asarray(Image.open(files.image))[files.hole] == (255, 0, 0)).all()


def test_large_holes_and_transparent_holes_are_warned_of(fake, files):
    result = run("fill", files.image, files.mask, "-o", files.out, "--invert-mask")
    assert result.exit_code == 0
    assert "the hole is 75% of the image and touches all four borders; leave out --invert-mask" in result.stderr
    assert "note" not in run("fill", files.image, files.mask, "-o", files.out).stderr
    alpha = np.where(files.hole, 0, 255).astype(np.uint8)
    save_picture(files.folder / "cut.png", Image.fromarray(np.dstack([files.pixels, alpha])))
    result = run("fill", files.folder / "cut.png", files.mask, "-o", files.out)
    assert result.exit_code == 0 and "transparent in the hole and stays so" in result.stderr
    assert np.array_equal(np.asarray(Image.open(files.out))[..., 3], alpha)


def test_notes_about_the_file_are_passed_on(fake, files):
    frames = [Image.fromarray(files.pixels), Image.new("RGB", (40, 32))]
    frames[0].save(files.folder / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    result = run("fill", files.folder / "moving.webp", files.mask, "-o", files.out)
    assert result.exit_code == 0 and "2 frames; only the first one is used" in result.stderr


# What marks the hole


def filled_hole(fake, *arguments) -> np.ndarray:
    result = run("fill", *arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return fake.job.hole


def test_boxes_mark_the_hole_alone_and_with_a_mask(fake, files):
    expected = np.zeros((32, 40), bool)
    expected[3:8, 2:6] = expected[30:, 30:] = True
    boxes = ["--box", "2,3,4,5", "--box", "30,30,100,100"]
    assert np.array_equal(filled_hole(fake, files.image, "-o", files.out, *boxes), expected)
    assert np.array_equal(
        filled_hole(fake, files.image, "-o", files.out, *boxes, "--mask", files.mask), expected | files.hole
    )
    assert filled_hole(fake, files.image, "-o", files.out, *boxes, "--dilate", 1).sum() == 6 * 7 + 3 * 11
    assert "lies outside" in failure("fill", files.image, "-o", files.out, "--box", "50,1,2,2")


def test_a_colour_is_looked_for_in_the_photograph_or_in_the_mask(fake, files):
    painted = files.pixels // 2
    painted[files.hole] = (255, 0, 255)
    Image.fromarray(painted).save(files.folder / "painted.png")
    path = files.folder / "painted.png"
    options = ["--mask-colour", "#ff00ff", "-o", files.out]
    assert np.array_equal(filled_hole(fake, path, *options), dilate_hole(files.hole, 2))
    assert np.array_equal(filled_hole(fake, path, *options, "--dilate", 0), files.hole)
    options = ["--mask", path, "--mask-color", "magenta", "-o", files.out, "--dilate", 0]
    assert np.array_equal(filled_hole(fake, files.image, *options), files.hole)
    assert "expected a colour such as red" in failure("fill", path, "--mask-colour", "reddish", "-o", files.out)
    assert "no pixel of the colour lime" in failure("fill", path, "--mask-colour", "lime", "-o", files.out)


def test_what_is_erased_is_filled_and_opaque(fake, files):
    alpha = np.where(files.hole, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([files.pixels, alpha])).save(files.folder / "erased.png")
    result = run("fill", files.folder / "erased.png", "--mask-from-alpha")
    assert result.exit_code == 0 and "note" not in result.stderr
    saved = np.asarray(Image.open(files.folder / "erased_filled.png"))
    assert (saved[..., 3] == 255).all() and (saved[files.hole, :3] == (255, 0, 0)).all()
    assert np.array_equal(saved[~files.hole, :3], files.pixels[~files.hole])
    assert "has no transparency" in failure("fill", files.image, "--mask-from-alpha")
    assert "has no NaN" in failure("fill", files.image, "--mask-from-nan")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_what_is_nan_in_a_tiff_is_filled(fake, files, dtype):
    pixels = (files.pixels / 255).astype(dtype)
    pixels[files.hole, 1] = np.nan
    tifffile.imwrite(files.folder / "depth.tif", pixels, photometric="rgb")
    result = run("fill", files.folder / "depth.tif", "--mask-from-nan", "-o", files.folder / "out.tif")
    assert result.exit_code == 0, result.output
    saved = tifffile.imread(files.folder / "out.tif")
    assert saved.dtype == dtype and np.array_equal(saved[~files.hole], pixels[~files.hole])
    assert np.isfinite(saved).all() and np.array_equal(fake.job.hole, files.hole)
    line = failure("fill", files.folder / "depth.tif", files.mask, "--invert-mask", "-o", files.folder / "out.tif")
    assert "got NaN" in line


def test_the_mask_command_takes_a_page(files):
    tifffile.imwrite(files.folder / "pages.tif", np.stack([files.pixels, files.pixels // 2]), photometric="rgb")
    result = run("mask", files.folder / "pages.tif", "--box", "0,0,1,1", "--page", 2, "-o", files.out)
    assert result.exit_code == 0, result.output
    assert np.array_equal(np.asarray(Image.open(files.out))[1:], (files.pixels // 2)[1:])
    assert run("mask", files.folder / "pages.tif", "--box", "0,0,1,1", "--page", 3, "-o", files.out).exit_code == 1


def test_labels_outlines_and_masks_of_another_size(fake, files):
    labels = np.where(files.hole, 7, 3).astype(np.uint8)
    labels[0, 0] = 0
    Image.fromarray(labels).save(files.folder / "labels.png")
    options = [files.folder / "labels.png", "-o", files.out]
    assert np.array_equal(filled_hole(fake, files.image, *options, "--label", 7), files.hole)
    assert filled_hole(fake, files.image, *options, "--label", 7, "--label", 0).sum() == files.hole.sum() + 1
    assert "its labels are 0, 3, 7" in failure("fill", files.image, *options, "--label", 9)
    assert "a label image? use a threshold of 0" in failure("fill", files.image, *options)
    shape = {"points": [[10, 8], [30, 24]], "shape_type": "rectangle"}
    outline = files.folder / "outline.json"
    outline.write_text(json.dumps({"imageHeight": 32, "imageWidth": 40, "shapes": [shape]}))
    assert np.array_equal(filled_hole(fake, files.image, outline, "-o", files.out), files.hole)
    small = files.folder / "small.png"
    Image.fromarray(files.hole[::2, ::2]).save(small)
    assert "stretch it with --resize-mask" in failure("fill", files.image, small, "-o", files.out)
    result = run("fill", files.image, small, "-o", files.out, "--resize-mask", "--threshold", 0.5)
    assert result.exit_code == 0 and "note: " in result.stderr and "stretched from 20x16 to 40x32" in result.stderr
    assert np.array_equal(fake.job.hole, files.hole)


def test_the_photograph_is_not_its_own_mask(unloadable, files):
    assert "is the photograph itself" in failure("fill", files.image, files.image, "-o", files.out)
    smooth = Image.fromarray(files.pixels[:4, :5]).resize((40, 32), Image.Resampling.BICUBIC)
    smooth.save(files.folder / "smooth.png")
    smooth.save(files.folder / "copy.jpg")
    line = failure("fill", files.folder / "smooth.png", files.folder / "copy.jpg", "-o", files.out)
    assert "copy.jpg is a copy of the photograph" in line


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_that_is_turned_upright_is_noted(fake, files, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(files.pixels).save(files.folder / "turned.png", exif=exif)
    result = run("fill", files.folder / "turned.png", "--box", "1,1,5,5", "-o", files.out)
    assert result.exit_code == 0, result.output
    note = f"turned upright (EXIF {orientation}); a mask has to be upright as well"
    assert (note in result.stderr) == (orientation > 1)


def test_source_and_exclusion_reach_the_job(fake, files):
    left = np.tile(np.arange(40) < 20, (32, 1))
    Image.fromarray(left).save(files.folder / "left.png")
    arguments = [files.image, "--box", "30,20,4,4", "-o", files.out]
    filled_hole(fake, *arguments, "--source", files.folder / "left.png")
    assert np.array_equal(fake.job.barred, ~left)
    filled_hole(fake, *arguments, "--exclude", files.folder / "left.png")
    assert np.array_equal(fake.job.barred, left)
    nothing = [*arguments, "--source", files.folder / "left.png", "--exclude", files.folder / "left.png"]
    assert "nothing remains to copy" in failure("fill", *nothing)
    filled_hole(fake, *arguments, "--feather", 3)
    assert fake.job.feather == 3 and fake.job.barred is None


def test_the_mask_command_shows_the_hole_and_its_share(files, unloadable):
    result = run("mask", files.image, files.mask)
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines()[0].endswith("photo.png: 40x32, hole 25.0%, in 1 window")
    shown = np.asarray(Image.open(files.folder / "photo_mask.png")).astype(int)
    assert np.array_equal(shown[~files.hole], files.pixels[~files.hole])
    expected = (files.pixels[files.hole].astype(int) + (255, 0, 255)) / 2
    assert np.abs(shown[files.hole] - expected).max() <= 0.5
    right = np.tile(np.arange(40) >= 24, (32, 1))
    Image.fromarray(right).save(files.folder / "right.png")
    arguments = ["mask", files.image, "--box", "1,2,20,6", "--exclude", files.folder / "right.png", "-o", files.out]
    arguments += ["--quiet", "--json"]
    result = run(*arguments, "--save-mask", files.folder / "box.png")
    report = json.loads(result.stdout)
    assert result.stderr == "" and report["hole_pixels"] == 120 and report["hole_share"] == pytest.approx(120 / 1280)
    dark = np.asarray(Image.open(files.out)).astype(int)[right]
    assert np.abs(dark - 0.4 * files.pixels[right]).max() <= 0.51
    assert np.asarray(Image.open(files.folder / "box.png")).sum() == 120 * 255
    again = run("mask", files.image, files.folder / "box.png", "--json", "--quiet", "-o", files.folder)
    assert json.loads(again.stdout)["hole_pixels"] == 120
    assert "is the mask itself" in failure("mask", files.image, files.mask, "-o", files.mask)
    assert "is the input photograph itself" in failure("mask", files.image, files.mask, "-o", files.image)
    assert "written twice" in failure("mask", files.image, files.mask, "-o", files.out, "--save-mask", files.out)
    assert "not written to standard output" in failure("mask", files.image, files.mask, "-o", "-")


# Where results go


def piped(content: bytes, *arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=content)


def test_standard_input_and_output(fake, files):
    for arguments in (["-", files.mask], ["-", files.mask, "-o", "-"], ["-", "--mask", files.mask, "-o", "-"]):
        result = piped(files.image.read_bytes(), "fill", *arguments)
        assert result.exit_code == 0, result.output
        saved = np.asarray(Image.open(io.BytesIO(result.stdout_bytes)))
        assert (
            np.array_equal(saved[~files.hole], files.pixels[~files.hole]) and (saved[files.hole] == (255, 0, 0)).all()
        )
        assert "standard input: 40x32, hole 25.0%" in result.stderr
    result = piped(files.mask.read_bytes(), "fill", files.image, "-", "-o", files.out)
    assert result.exit_code == 0 and np.array_equal(fake.job.hole, files.hole)
    result = piped(files.mask.read_bytes(), "mask", files.image, "-", "-o", files.out)
    assert result.exit_code == 0
    for content in (b"", b"text", files.image.read_bytes()[:200]):
        result = piped(content, "fill", "-", files.mask, "-o", files.out)
        assert result.exit_code == 1 and "inpaint: cannot read standard input" in result.stderr


def test_a_pipe_of_two_processes(files):
    command = [sys.executable, "-m", "inpaint", "fill", "-", str(files.mask), "--quiet", "--device", "cpu"]
    done = subprocess.run(command, input=files.image.read_bytes(), capture_output=True, check=False)
    assert done.returncode == 0 and done.stderr == b"", done.stderr
    saved = np.asarray(Image.open(io.BytesIO(done.stdout)))
    assert np.array_equal(saved[~files.hole], files.pixels[~files.hole])


def test_a_picture_does_not_go_to_a_terminal(fake, files, monkeypatch):
    monkeypatch.setattr("inpaint.commands.places.is_terminal", lambda: True)
    result = run("fill", files.image, files.mask, "-o", "-")
    assert result.exit_code == 1 and "standard output is a terminal" in result.stderr


def test_the_name_of_the_output_follows_from_the_photograph(fake, files):
    Image.fromarray(files.pixels).save(files.folder / "a.b.JPG", quality=95)
    Image.fromarray(files.pixels).save(files.folder / "frame.bmp")
    for name, expected in (("photo.png", "photo_filled.png"), ("a.b.JPG", "a.b_filled.JPG")):
        result = run("fill", files.folder / name, files.mask)
        assert result.exit_code == 0 and (files.folder / expected).exists(), result.output
    assert run("fill", files.folder / "frame.bmp", files.mask).exit_code == 0
    assert len(list(files.folder.glob("frame_filled.*"))) == 1
    (files.folder / "results").mkdir()
    assert run("fill", files.image, files.mask, "-o", files.folder / "results").exit_code == 0
    assert (files.folder / "results" / "photo_filled.png").exists()


def several(files: SimpleNamespace, count: int = 3) -> list[Path]:
    paths = []
    for number in range(count):
        paths.append(files.folder / f"scan{number}.png")
        Image.fromarray(np.roll(files.pixels, number, 0)).save(paths[-1])
    return paths


def test_several_photographs_in_one_call(fake, files):
    paths = several(files)
    result = run("fill", *paths, files.mask, "--json")
    assert result.exit_code == 0, result.output
    assert fake.loads == 1
    reports = [json.loads(line) for line in result.stdout.splitlines()]
    assert [report["output"] for report in reports] == [
        str(path.with_name(f"{path.stem}_filled.png")) for path in paths
    ]
    assert [[stage["name"] for stage in report["stages"]].count("save") for report in reports] == [1, 1, 1]
    for number, report in enumerate(reports):
        saved = np.asarray(Image.open(report["output"]))
        assert np.array_equal(saved[~files.hole], np.roll(files.pixels, number, 0)[~files.hole])
    for number, path in enumerate(paths):
        hole = np.zeros((32, 40), bool)
        hole[number : number + 3, 4:9] = True
        Image.fromarray(hole).save(files.folder / f"mask_{path.stem}.png")
    fake.jobs.clear()
    steps = files.folder / "steps"
    result = run("fill", *paths, "--mask", files.folder / "mask_{name}.png", "--save-stages", steps)
    assert result.exit_code == 0, result.output
    assert [int(job.hole.any(1).argmax()) for job in fake.jobs] == [0, 1, 2]
    assert {path.name for path in steps.iterdir()} == {"scan0", "scan1", "scan2"}


def test_of_several_photographs_none_is_filled_before_all_are_checked(unloadable, files):
    paths = several(files)
    paths[2].write_bytes(paths[2].read_bytes()[:300])
    before = sorted(files.folder.iterdir())
    assert "scan2.png" in failure("fill", *paths, files.mask)
    Image.new("RGB", (41, 32)).save(paths[2])
    assert "the photograph is 41x32" in failure("fill", *paths, files.mask)
    assert "looks like a mask" in failure("fill", *paths[:2], files.mask, "--box", "1,1,5,5")
    (files.folder / "one").mkdir()
    (files.folder / "one" / "scan0.png").write_bytes(paths[0].read_bytes())
    twice = [paths[0], files.folder / "one" / "scan0.png", files.mask, "-o", files.folder]
    assert "scan0_filled.png would be written twice" in failure("fill", *twice)
    assert "written twice" in failure("fill", paths[0], files.mask, "-o", files.out, "--explain", files.out)
    taken = files.folder / "scan0_filled.png"
    taken.write_bytes(paths[0].read_bytes())
    assert "is the input photograph itself" in failure("fill", paths[0], taken, files.mask)
    assert sorted({*files.folder.iterdir()} - {taken, files.folder / "one"}) == before


def test_variants_are_numbered_and_explained(fake, files):
    result = run("fill", files.image, files.mask, "--variants", 3, "-o", files.out, "--explain", files.folder, "--json")
    assert result.exit_code == 0, result.output
    assert [job.variant for job in fake.jobs] == [0, 1, 2] and fake.loads == 1
    reports = [json.loads(line) for line in result.stdout.splitlines()]
    assert [report["variant"] for report in reports] == [1, 2, 3]
    for number in (1, 2, 3):
        assert (files.folder / f"out_{number}.png").exists()
        assert Image.open(files.folder / f"photo_explained_{number}.png").size == (40, 32)
    assert not files.out.exists()
    stages = files.folder / "stages"
    run("fill", files.image, files.mask, "--variants", 2, "-o", files.out, "--save-stages", stages)
    assert {path.name for path in stages.iterdir()} == {"variant1", "variant2"}


def test_threads_are_set(fake, files):
    before = torch.get_num_threads()
    try:
        assert run("fill", files.image, files.mask, "-o", files.out, "--threads", 1).exit_code == 0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


# What is refused


def test_problems_with_the_files_are_found_before_the_networks_are_loaded(unloadable, files):
    image, mask, out, folder = files.image, files.mask, files.out, files.folder
    (folder / "text.png").write_text("not a picture")
    Image.new("L", (32, 40), 255).save(folder / "turned.png")
    Image.new("RGBA", (40, 32)).save(folder / "alpha.png")
    expected = {
        (folder / "absent.png", mask, out): "absent.png: no such file",
        (folder / "text.png", mask, out): "text.png: expected a PNG, JPEG",
        (image, folder / "absent.png", out): "absent.png: no such file",
        (image, folder / "turned.png", out): "is 32x40 (turned by 90 degrees?), the photograph is 40x32",
        (image, mask, folder / "absent" / "out.png"): "no such folder; make it first",
        (image, mask, folder / "out.xyz"): "expected a name ending in .png",
        (image, mask, folder / f"{'long' * 99}.png"): "name too long",
        (folder / "alpha.png", mask, folder / "out.jpg"): "JPEG has no alpha channel",
        (image, mask_of(files, 0), out): "marks no hole (0 % of the image)",
    }
    before = sorted(folder.iterdir())
    for (photograph, hole, output), text in expected.items():
        assert text.lower() in failure("fill", photograph, hole, "-o", output).lower()
    assert sorted(folder.iterdir()) == before


def test_empty_and_full_masks_name_the_share_and_the_way_out(unloadable, files):
    black = mask_of(files, 0)
    line = failure("fill", files.image, black, "-o", files.out)
    assert "0 %" in line and "use --invert-mask if black marks the hole" in line
    line = failure("fill", files.image, black, "-o", files.out, "--invert-mask")
    assert "100 %" in line and "leave out --invert-mask if black marks what to keep" in line
    white = mask_of(files, 255)
    line = failure("fill", files.image, white, "-o", files.out)
    assert "100 %" in line and "use --invert-mask if white marks what to keep" in line
    line = failure("fill", files.image, white, "-o", files.out, "--invert-mask")
    assert "0 %" in line and "leave out --invert-mask if white marks the hole" in line
    assert "100 %" in failure("fill", files.image, files.mask, "-o", files.out, "--dilate", 40)


def test_scales_that_are_not_the_halved_short_side_are_refused(unloadable, files):
    line = failure("fill", files.image, files.mask, "-o", files.out, "--scales", "20,32")
    assert "expected growing short sides out of 16, 32" in line and "got 20, 32" in line


def test_no_write_permission_is_found_before_any_work(unloadable, files, monkeypatch):
    closed = files.folder / "closed"
    closed.mkdir()
    if os.geteuid() == 0:  # root may write everywhere: let the system call refuse as it would for others

        def refuse(self, *arguments, **options):
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "touch", refuse)
    else:
        closed.chmod(0o500)
    assert "closed: permission denied" in failure("fill", files.image, files.mask, "-o", closed / "out.png")


def test_a_folder_for_stages_that_is_a_file_is_refused(unloadable, files):
    line = failure("fill", files.image, files.mask, "-o", files.out, "--save-stages", files.mask)
    assert "mask.png" in line and not files.out.exists()


def test_the_size_limit_can_be_raised(fake, files):
    arguments = ("fill", files.image, files.mask, "-o", files.out, "--max-megapixels")
    assert "--max-megapixels 1" in failure(*arguments, "0.001")
    assert run(*arguments, "1").exit_code == 0


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), RuntimeError("can't allocate memory"), MemoryError()]
)
def test_exhausted_memory_is_one_line(fake, files, monkeypatch, error):
    def exhausted(*arguments, **options):
        raise error

    monkeypatch.setattr(fake, "fill", exhausted)
    assert "not enough memory for 40x32 pixels" in failure("fill", files.image, files.mask, "-o", files.out)
    assert not files.out.exists()


def test_other_errors_are_not_hidden(fake, files, monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(fake, "fill", broken)
    result = run("fill", files.image, files.mask, "-o", files.out)
    assert isinstance(result.exception, RuntimeError) and not files.out.exists()


def test_missing_weights_are_one_line(files):
    line = failure("fill", files.image, files.mask, "-o", files.out, "--weights", files.folder / "absent.safetensors")
    assert "absent.safetensors" in line and not files.out.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["fill"],
        ["fill", "a.png"],
        ["fill", "a.png", "-o", "c.png"],
        ["fill", "a.png", "--mask-from-alpha", "--invert-mask"],
        ["fill", "a.png", "--box", "1,2,3,4", "--label", "1"],
        ["fill", "a.png", "--box", "1,2,3"],
        ["fill", "a.png", "--box", "1,2,3,0"],
        ["fill", "a.png", "--box", "1,2,3,4.5"],
        ["fill", "a.png", "--box", "1,2,3,99999999999999999999"],
        ["fill", "-", "-"],
        ["fill", "-", "b.png", "--exclude", "-"],
        ["fill", "-", "b.png", "--variants", "2"],
        ["fill", "a.png", "b.png", "c.png", "-o", "-"],
        ["fill", "a.png", "b.png", "c.png", "-o", "d.png"],
        ["fill", "a.png", "b.png", "-o", "-", "--json"],
        ["fill", "a.png", "b.png", "--variants", "0"],
        ["fill", "a.png", "b.png", "--threads", "0"],
        ["fill", "a.png", "b.png", "--feather", "-1"],
        ["mask", "a.png"],
        ["mask", "a.png", "b.png", "c.png"],
        ["fill", "a.png", "b.png", "-o", "c.png", "--scales", "512,256"],
        ["fill", "a.png", "b.png", "-o", "c.png", "--scales", "256,256"],
        ["fill", "a.png", "b.png", "-o", "c.png", "--scales", "0"],
        ["fill", "a.png", "b.png", "-o", "c.png", "--scales", "big"],
        ["fill", "a.png", "b.png", "-o", "c.png", "--scales", ""],
        ["fill", "a.png", "b.png", "-o", "c.png", "--threshold", "1"],
        ["fill", "a.png", "b.png", "-o", "c.png", "--dilate", "-1"],
        ["fill", "a.png", "b.png", "-o", "c.png", "--max-memory", "0"],
        ["fill", "a.png", "b.png", "-o", "c.png", "--device", "toaster"],
        ["train", "vgg", "--data", "a", "--out", "b"],
        ["train", "image2feature", "--out", "b"],
        ["evaluate", "a"],
        ["paint"],
    ],
)
def test_wrong_use_exits_with_2(unloadable, arguments):
    result = run(*arguments)
    assert result.exit_code == 2 and "Usage: " in result.stderr


# Help


def commands(group=main, path=()):
    for name, command in group.commands.items():
        yield (*path, name)
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))


@pytest.mark.parametrize("path", [(), *commands()], ids=" ".join)
def test_every_command_explains_itself_with_an_example(path):
    result = run(*path, "--help")
    assert result.exit_code == 0 and "Example" in result.output and "  inpaint " in result.output


@pytest.mark.parametrize("command", ["fill", "mask"])
def test_options_stand_under_headings(command):
    lines = run(command, "--help").output.splitlines()
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings[0] == "The hole:" and headings[-1] == "Help:" and "Where copies come from:" in headings
    options = [parameter for parameter in main.commands[command].params if parameter.param_type_name == "option"]
    assert {getattr(each, "heading", None) for each in options} == {heading[:-1] for heading in headings[:-1]}
    listed = [line for line in lines[lines.index("The hole:") :] if line.startswith("  -")]
    assert len(listed) == len(options) + 1 and max(map(len, lines)) <= 100


def test_help_does_not_load_torch():
    code = "import sys; import inpaint.commands; sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_module_runs_as_a_command(files):
    command = [sys.executable, "-m", "inpaint"]
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    assert helped.returncode == 0 and helped.stdout.startswith("Usage: inpaint ")
    failed = subprocess.run(
        [*command, "fill", files.folder / "absent.png", files.mask, "-o", files.out],
        capture_output=True,
        text=True,
        check=False,
    )
    assert failed.returncode == 1 and failed.stdout == ""
    assert len(failed.stderr.splitlines()) == 1 and failed.stderr.startswith("inpaint: cannot read ")


# The real thing


def test_the_default_weights_fill_a_photograph(tmp_path):
    height, width = 96, 120
    rows, columns = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    picture = torch.stack([0.5 + 0.1 * torch.sin(40 * columns), 0.1 + 0.8 * rows, 0.1 + 0.8 * columns])
    hole = torch.zeros(height, width, dtype=torch.bool)
    hole[55:85, 75:110] = True
    save_picture(tmp_path / "photo.png", to_pil(picture))
    save_picture(tmp_path / "mask.png", to_pil(hole.float().expand(3, -1, -1)))
    steps = tmp_path / "steps"
    arguments = ("fill", tmp_path / "photo.png", tmp_path / "mask.png", "-o", tmp_path / "out.png", "--device", "cpu")
    result = run(*arguments, "--json", "--save-stages", steps)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert {"infer", "vgg", "match", "translate", "blend"} <= {stage["name"] for stage in report["stages"]}
    before = read(tmp_path / "photo.png").colours()
    filled = read(tmp_path / "out.png").colours()
    assert torch.equal(filled[:, ~hole], before[:, ~hole])
    # Nearer to the truth than the flat mean colour of the known part.
    flat = before[:, ~hole].mean(dim=1, keepdim=True)
    assert (filled - before)[:, hole].abs().mean() < (flat - before[:, hole]).abs().mean()
    assert {"mask.png", "coarse.png"} < {path.name for path in steps.iterdir()}
    (window,) = report["windows"]
    assert len(list(steps.glob("scale*_match_field.png"))) == len(window["scales"])


# Training and evaluation


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(0)
    for number in range(4):
        coarse = Image.fromarray(generator.integers(0, 256, (8, 9, 3), dtype=np.uint8))
        coarse.resize((90, 80), Image.Resampling.BICUBIC).save(folder / f"{number:04d}_noise.png")
    return folder


SMALL_TRAINING = """
image_size = 64
zoom = [1.0, 1.1]
batch = 1
window = 0
discriminator_width = 8
bfloat16 = false
workers = 0
warmup = 1
adversarial_start = 1
"""


def test_training_both_networks_exporting_and_filling(tmp_path, photographs, files):
    widths = {
        "image2feature": "widths = [8, 8, 8]\ndilations = [1, 2]",
        "feature2image": "widths = [8, 8]\nupper = [8, 8]",
    }
    for stage, network in widths.items():
        (tmp_path / f"{stage}.toml").write_text(f"{SMALL_TRAINING}\n[network]\n{network}\n")
        arguments = ["--config", tmp_path / f"{stage}.toml", "--data", photographs, "--quiet", "--device", "cpu"]
        result = run("train", stage, *arguments, "--out", tmp_path / stage, "--steps", 2)
        assert result.exit_code == 0, (result.output, result.exception)
        checkpoint = Path(result.stdout.strip())
        assert checkpoint == tmp_path / stage / "checkpoint.safetensors" and checkpoint.is_file()
        refused = ["train", stage, *arguments, "--out", tmp_path / stage, "--resume", "none"]
        assert "checkpoint.safetensors" in failure(*refused)
    paths = {stage: tmp_path / stage / "checkpoint.safetensors" for stage in widths}
    mine = tmp_path / "mine.safetensors"
    swapped = ["--image2feature", paths["feature2image"], "--feature2image", paths["image2feature"]]
    assert "expected a checkpoint of image2feature" in failure("train", "export", *swapped, "-o", mine)
    correct = ["--image2feature", paths["image2feature"], "--feature2image", paths["feature2image"]]
    assert "ending in .safetensors" in failure("train", "export", *correct, "-o", tmp_path / "mine.pt")
    assert "no such folder" in failure("train", "export", *correct, "-o", tmp_path / "absent" / "mine.safetensors")
    (tmp_path / "notes.md").write_text("- trained on noise")
    result = run("train", "export", *correct, "-o", mine, "--notes", tmp_path / "notes.md")
    assert result.exit_code == 0 and "trained on noise" in result.stdout and "2 steps" in result.stdout
    result = run("fill", files.image, files.mask, "-o", files.out, "--weights", mine, "--device", "cpu")
    assert result.exit_code == 0, (result.output, result.exception)
    assert np.array_equal(np.asarray(Image.open(files.out))[~files.hole], files.pixels[~files.hole])
    result = run("train", stage, *arguments, "--out", tmp_path / "further", "--steps", 2, "--init", mine)
    assert result.exit_code == 0, (result.output, result.exception)
    assert json.loads((tmp_path / "further" / "config.json").read_text())["init"] == str(mine)


def test_training_problems_are_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    arguments = ["--out", tmp_path / "out", "--device", "cpu", "--quiet"]
    assert "absent" in failure("train", "image2feature", "--data", tmp_path / "absent", *arguments)
    assert "empty" in failure("train", "image2feature", "--data", tmp_path / "empty", *arguments)
    unknown = ["--data", tmp_path, "--config", "enormous", *arguments]
    assert "enormous" in failure("train", "image2feature", *unknown)
    if not torch.cuda.is_available():
        assert "CUDA" in failure("train", "image2feature", "--data", tmp_path, "--out", tmp_path, "--device", "cuda")


def test_evaluation_writes_its_numbers(tmp_path, photographs):
    masks = tmp_path / "masks"
    masks.mkdir()
    hole = np.zeros((80, 90), dtype=np.uint8)
    hole[20:50, 30:60] = 255
    for number in range(4):
        Image.fromarray(hole).save(masks / f"center_{number:04d}.png")
    arguments = ["--method", "mean-colour", "--kinds", "center", "--limit", 2, "--quiet"]
    result = run("evaluate", photographs, masks, "--out", tmp_path / "report", *arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["images"] == 2 and summary["kinds"]["center"]["hole_l1"] > 0
    assert "absent" in failure("evaluate", tmp_path / "absent", masks, "--out", tmp_path / "report", *arguments)


def test_a_missing_extra_is_named():
    with (
        pytest.raises(InpaintError, match=r"needs no_such_module.*pip install '\.\[train\]'"),
        extra("train"),
    ):
        import no_such_module  # noqa: F401


# The match field


def test_match_field_colours_direction_and_distance():
    columns = 9
    index = torch.full((7, columns), -1)
    index[3, 4] = 3 * columns + 8  # 4 to the right
    index[3, 5] = 3 * columns + 1  # 4 to the left
    index[2, 4] = 4 * columns + 4  # 2 down
    index[2, 5] = 2 * columns + 5  # itself
    picture = torch.rand(3, 36, 44)
    drawn = draw_match_field(index, picture)
    assert drawn.shape == picture.shape and drawn.dtype == torch.float32

    def cell(row, column):  # the centre of the patch
        block = drawn[:, 4 * (row + 1) : 4 * (row + 2), 4 * (column + 1) : 4 * (column + 2)]
        assert (block == block[:, :1, :1]).all()
        return block[:, 0, 0].tolist()

    assert cell(3, 4) == pytest.approx([1, 0, 0])
    assert cell(3, 5) == pytest.approx([0, 1, 1], abs=1e-5)
    assert cell(2, 4) == pytest.approx([0.75, 1, 0.5], abs=1e-5)
    assert cell(2, 5) == pytest.approx([1, 1, 1])
    grey = DIM * picture.mean(dim=0)
    unmatched = torch.ones(36, 44, dtype=torch.bool)
    unmatched[12:20, 20:28] = False
    assert torch.allclose(drawn[:, unmatched], grey[unmatched].expand(3, -1))


@pytest.mark.parametrize(("height", "width"), [(5, 30), (12, 12), (13, 18), (15, 16)])
def test_match_field_has_the_size_of_its_picture(height, width):
    index = torch.full((max(0, -(-height // 4) - 2), -(-width // 4) - 2), -1)
    picture = torch.rand(3, height, width)
    assert torch.equal(draw_match_field(index, picture), (DIM * picture.mean(dim=0)).expand(3, -1, -1))


# Options that are numbers, and what must not be lost


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["fill", "a.png", "b.png", "--threshold"],
        ["fill", "a.png", "b.png", "--max-memory"],
        ["fill", "a.png", "b.png", "--max-megapixels"],
        ["mask", "a.png", "b.png", "--max-megapixels"],
        ["stylize", "a.png", "b.png", "-o", "c.png", "--scale"],
        ["stylize", "a.png", "b.png", "-o", "c.png", "--tone"],
        ["stylize", "a.png", "b.png", "-o", "c.png", "--coherence"],
        ["web", "--max-upload"],
        ["web", "--max-megapixels"],
        ["web", "--timeout"],
        ["web", "--max-memory"],
    ],
    ids=lambda arguments: " ".join([arguments[0], arguments[-1]]),
)
def test_options_are_finite_numbers(unloadable, arguments, number):
    result = run(*arguments, number)
    assert result.exit_code == 2 and "Usage: " in result.stderr


@pytest.mark.parametrize("name", ["mask.png", "scale1_photo.png", "coarse.png", "window2_coarse.png"])
def test_pictures_of_stages_replace_no_input_and_no_output(unloadable, files, name):
    mask = files.mask.rename(files.folder / name)
    before = mask.read_bytes()
    message = failure("fill", files.image, mask, "-o", files.out, "--save-stages", files.folder)
    assert f"{mask} has the name of a stage's picture in {files.folder}; choose another folder" in message
    link = files.folder / "link.png"
    link.symlink_to(mask)
    message = failure("fill", files.image, link, "-o", files.out, "--save-stages", files.folder)
    assert "has the name of a stage's picture in" in message and mask.read_bytes() == before
    other = mask.rename(files.folder / "elsewhere.png")
    message = failure("fill", files.image, other, "-o", mask, "--save-stages", files.folder)
    assert "has the name of a stage's picture in" in message and not mask.exists()


def test_a_result_that_standard_output_does_not_take_is_no_success(files):
    program = "import sys; from inpaint.commands import main; main()"
    options = ["fill", files.image, files.mask, "-o", "-", "--device", "cpu"]
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [sys.executable, "-c", program, *options], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.returncode != 0 and "done in" not in ended.stderr and "Traceback" not in ended.stderr
    assert "inpaint: cannot write <stdout>: no space left on device; it does not hold the whole picture" in ended.stderr


def test_a_text_in_another_encoding_is_named(tmp_path):
    notes = tmp_path / "card.md"
    notes.write_bytes("Größe".encode("latin-1"))
    options = ["--image2feature", "a", "--feature2image", "b", "-o", tmp_path / "w.safetensors", "--notes", notes]
    assert f"{notes}: expected text in UTF-8, got other bytes; save it as UTF-8" in failure("train", "export", *options)
