"""``inpaint batch`` as a person uses it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result
from PIL import Image, PngImagePlugin

import inpaint
from inpaint.batch.manifest import Manifest
from inpaint.commands import bar, interruption, main


@pytest.fixture
def load(monkeypatch):
    """Lets the command load what a test gives, and counts."""

    def use(inpainter) -> list[dict]:
        calls: list[dict] = []

        def load(name_or_path="default", **options):
            calls.append(options)
            return inpainter

        monkeypatch.setattr(inpaint, "load", load, raising=False)
        return calls

    return use


def batch(folder, *arguments: object, masks: object = "masks") -> Result:
    given = [folder.photos, *([] if masks is None else [folder.path / str(masks)]), "-o", folder.out, *arguments]
    return CliRunner().invoke(main, ["batch", *map(str, given)])


def test_a_folder_is_filled_and_a_second_run_finds_it_done(folder, red, load) -> None:
    calls = load(red)
    result = batch(folder)
    assert result.exit_code == 0, result.output
    assert len(red.calls) == len(folder.results()) == 5 and result.stdout == "" and len(calls) == 1
    assert f"{folder.out}: 5 filled, in " in result.stderr
    result = batch(folder, "--json")
    assert result.exit_code == 0 and len(red.calls) == 5 and "0 filled, 5 done before" in result.stderr
    report = json.loads(result.stdout)
    assert report.pop("seconds") > 0
    assert report == {
        "filled": 0,
        "done_before": 5,
        "failed": {},
        "without_mask": [],
        "without_photograph": [],
        "left": 0,
    }


def test_the_bytes_are_those_of_fill(folder, inpainter, load) -> None:
    load(inpainter)
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "kept")
    with Image.open(folder.photos / "a.png") as image:
        image.save(folder.photos / "a.png", pnginfo=text, dpi=(300, 300))
    deep = np.random.default_rng(1).integers(0, 65536, (24, 32, 3), dtype=np.uint16)
    tifffile.imwrite(folder.photos / "c.tif", deep, photometric="rgb", compression="zlib")
    Image.fromarray(np.arange(24)[:, None].repeat(32, 1) > 22).save(folder.path / "excluded.png")
    options = ["--feather", 2, "--box", "28,20,5,4", "--exclude", folder.path / "excluded.png"]
    result = batch(folder, *options)
    assert result.exit_code == 0, result.output
    for name in folder.holes:
        photograph, single = folder.photos / name, folder.path / f"single{Path(name).suffix}"
        mask = (folder.masks / name).with_suffix(".png")
        given = ["fill", photograph, "--mask", mask, "-o", single, *options, "--overwrite"]
        assert CliRunner().invoke(main, [str(each) for each in given]).exit_code == 0
        assert single.read_bytes() == (folder.out / name).with_stem(f"{Path(name).stem}_filled").read_bytes()


def test_files_without_counterpart_are_named_and_failures_give_exit_code_1(folder, red, load) -> None:
    load(red)
    (folder.masks / "b.png").rename(folder.masks / "other.png")
    (folder.photos / "c.tif").write_bytes(b"nothing")
    shutil.copy(folder.masks / "a.png", folder.masks / "a.bmp")
    result = batch(folder, "--quiet", "--json")
    assert result.exit_code == 1 and "Traceback" not in result.output
    lines = result.stderr.splitlines()
    assert lines[0] == "a.png: failed: expected one mask, got 2: a.bmp, a.png; leave one of them"
    assert lines[1].startswith("c.tif: failed: cannot read ") and len(lines) == 2
    report = json.loads(result.stdout)
    assert report["filled"] == 2 and report["failed"].keys() == {"a.png", "c.tif"} and report["left"] == 0
    assert report["without_mask"] == ["b.jpg"] and report["without_photograph"] == ["other.png"]
    result = batch(folder)
    assert "no mask: b.jpg" in result.stderr and "no photograph: other.png" in result.stderr
    told = "0 filled, 2 done before, 2 failed, 1 without a mask, 1 mask without a photograph, in "
    assert told in result.stderr and result.exit_code == 1


def test_of_many_files_without_counterpart_some_are_named(folder, red, load) -> None:
    load(red)
    for number in range(25):
        (folder.masks / f"lonely{number:02}.png").touch()
    lines = [line for line in batch(folder).stderr.splitlines() if "no photograph" in line]
    assert len(lines) == 21 and lines[-1] == "no photograph: 5 more; --json lists all"


def test_one_mask_for_all_may_lie_among_the_photographs(folder, red, load) -> None:
    load(red)
    shutil.copy(folder.masks / "a.png", folder.photos / "mask.png")
    result = batch(folder, masks="photos/mask.png")
    assert result.exit_code == 0, result.output
    assert len(folder.results()) == 5 and not (folder.out / "mask_filled.png").exists()


def test_results_among_the_photographs_are_not_filled_again(folder, red, load) -> None:
    load(red)
    given = ["batch", folder.photos, "--box", "2,2,9,9", "-o", folder.photos / "filled"]
    for expected in ("5 filled", "0 filled, 5 done before"):
        result = CliRunner().invoke(main, [str(each) for each in given])
        assert result.exit_code == 0 and expected in result.stderr, result.output
    shutil.rmtree(folder.photos / "filled")
    shutil.move(folder.masks, folder.photos / "masks")
    result = batch(folder, masks="photos/masks")
    assert f"{folder.out}: 5 filled, in " in result.stderr


def test_options_change_what_is_done(folder, red, load) -> None:
    calls = load(red)
    batch(folder)
    for options in (["--dilate", 1], ["--box", "0,0,3,3"], ["--precision", "float32"], ["--max-memory", 1]):
        assert "5 filled" in batch(folder, *options).stderr
        assert "5 done before" in batch(folder, *options, "--jobs", 3, "--threads", 1).stderr
    assert calls[-1]["max_memory"] == 2**30
    assert "notes on 5 of them" in batch(folder, "--invert-mask").stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["photos", "-o", "out"], 2, "Missing argument 'MASKS': give a folder of masks, a mask for all photographs"),
        (["photos", "masks"], 2, "Missing option '-o'"),
        (["photos", "--box", "1,1,2,2", "--label", "1", "-o", "out"], 2, "need a mask: give MASKS"),
        (["photos/a.png", "masks", "-o", "out"], 1, "expected a folder of photographs, found none; for a single"),
        (["nowhere", "masks", "-o", "out"], 1, "nowhere: expected a folder of photographs, found none"),
        (["photos", "nowhere", "-o", "out"], 1, "nowhere: expected a folder of masks, or one mask, found neither"),
        (["photos", "photos", "-o", "out"], 1, "photos is given for photographs and masks; put the masks into"),
        (["photos", "masks", "-o", "photos"], 1, "photos is the folder of photographs itself; choose another"),
        (["photos", "masks", "-o", "masks"], 1, "masks is the folder of masks itself; choose another"),
        (["photos", "masks", "-o", "photos/a.png"], 1, "a.png: File exists"),
        (["photos", "empty", "-o", "out"], 1, "found none, and none of its photographs has a mask; check the names"),
        (["empty", "masks", "-o", "out"], 1, "empty: expected photographs to fill, found none; check"),
        (["photos", "masks", "--mask-colour", "rod", "-o", "out"], 1, "expected a colour such as red or #ff0000"),
        (["photos", "masks", "--source", "nowhere.png", "-o", "out"], 1, "nowhere.png: No such file"),
        (["photos", "masks", "--device", "cuda", "-o", "out"], 1, "device: expected an NVIDIA GPU"),
    ],
)
def test_wrong_use_is_named_before_any_work(folder, monkeypatch, arguments, code: int, message: str) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(inpaint, "load", lambda *args, **options: pytest.fail("loaded"), raising=False)
    monkeypatch.chdir(folder.path)
    (folder.path / "empty").mkdir()
    result = CliRunner().invoke(main, ["batch", *arguments])
    assert result.exit_code == code and message in result.stderr and "Traceback" not in result.output, result.output
    assert not folder.manifest.exists()


def test_no_input_is_overwritten_by_whatever_name(folder, red, load) -> None:
    load(red)
    folder.out.mkdir()
    for link in (Path.symlink_to, Path.hardlink_to):
        for target in (folder.photos / "b.jpg", folder.masks / "a.png"):
            link(folder.out / "a_filled.png", target)
            before = target.read_bytes()
            result = batch(folder)
            assert result.exit_code == 1 and "a_filled.png is an input itself; choose another" in result.stderr
            assert target.read_bytes() == before and not red.calls
            (folder.out / "a_filled.png").unlink()


def test_another_run_in_the_same_folder_is_refused(folder, red, load) -> None:
    load(red)
    folder.out.mkdir()
    with Manifest(folder.manifest):
        result = batch(folder)
    assert result.exit_code == 1 and "in use by another run" in result.stderr and not red.calls


# What ends a run early

SLOW = """
import sys, time
import torch
import inpaint
from inpaint.batch.manifest import Manifest
from inpaint.commands import main
from inpaint.photo import Patch
from inpaint.window import find_windows
from inpaint.work import Filled

class Slow:
    def fill(self, job):
        time.sleep(0.15)
        red = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, *job.hole.shape)
        picture = job.picture.filled([Patch(slice(None), slice(None), red, job.hole)])
        return Filled(picture, job.notes, find_windows(job.hole))

inpaint.load = lambda *arguments, **options: Slow()
main(sys.argv[1:])
"""


def manifest_names(folder) -> list[str]:
    """Of the photographs of all whole lines."""
    lines = folder.manifest.read_bytes().split(b"\n")[:-1] if folder.manifest.exists() else []
    return [json.loads(line)["photograph"] for line in lines]


@pytest.fixture
def signals_count():
    """SIGINT as in a program that a terminal starts: programs in the background ignore it, and so do their children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_loses_nothing_and_does_nothing_twice(
    tmp_path, folder, red, load, signals_count, number: int
) -> None:
    for index in range(20):
        folder.add(f"many/{index:02}.png", index)
    command = [sys.executable, "-c", SLOW, "batch", folder.photos, folder.masks, "-o", folder.out, "--jobs", "2"]
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while len(manifest_names(folder)) < 4 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number), said
    done = manifest_names(folder)
    assert 4 <= len(done) < 25 and len(set(done)) == len(done)
    results = {name for name in folder.results() if not name.endswith(".tmp")}
    of_manifest = {json.loads(line)["output"] for line in folder.manifest.read_text().splitlines()}
    if number == signal.SIGKILL:
        assert of_manifest <= results and len(results) <= len(of_manifest) + 2
    else:
        assert results == of_manifest == set(folder.results())
        assert "finishing what is begun" in said and "give the same command again to go on" in said
    for name in results:
        check(folder, name)

    load(red)
    assert batch(folder).exit_code == 0
    assert len(red.calls) == 25 - len(done)
    assert sorted(manifest_names(folder)) == sorted(folder.holes) and len(folder.results()) == 25
    for name in folder.results():
        check(folder, name)


def check(folder, name: str) -> None:
    """The result is whole: red in the hole, and where its format is without loss the photograph elsewhere."""
    photograph = name.replace("_filled", "")
    after, hole = np.asarray(Image.open(folder.out / name)), folder.holes[photograph]
    if not name.endswith(".jpg"):
        assert (after[hole] == (255, 0, 0)).all()
        assert np.array_equal(after[~hole], np.asarray(Image.open(folder.photos / photograph))[~hole])


def test_the_second_signal_ends_at_once(capfd, signals_count) -> None:
    with interruption.orderly_end("finishing\n") as ending:
        assert ending.exit_code is None and not ending.stop.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert ending.exit_code == 143 and ending.stop.is_set() and capfd.readouterr().err == "finishing\n"
        assert signal.getsignal(signal.SIGINT) == signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_signals_that_are_ignored_stay_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruption.orderly_end("") as ending:
            signal.raise_signal(signal.SIGINT)
        assert not ending.stop.is_set() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# The progress bar


def test_the_bar_shows_rate_and_time_left_on_a_terminal(monkeypatch, capfd) -> None:
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with bar.Bar(3, quiet=False) as shown:
        shown.advance()
        time.sleep(0.15)
        shown.say("a line")
        shown.advance()
    said = capfd.readouterr().err
    assert "2/3" in said and "photo/s" in said and "<" in said and "a line\n" in said


def test_without_tqdm_a_line_says_what_to_install(monkeypatch, capfd) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with bar.Bar(3, quiet=False) as shown:
        shown.advance()
    assert capfd.readouterr().err == "for a bar with rate and time left: pip install tqdm\n"
    with bar.Bar(3, quiet=True) as shown:
        shown.say("nothing")
        shown.warn("an error")
    assert capfd.readouterr().err == "an error\n"


def test_one_mask_for_all_is_no_photograph_and_is_not_overwritten(folder, red, load) -> None:
    load(red)
    folder.out.mkdir()
    mask = folder.out / "a_filled.png"
    shutil.copy(folder.masks / "a.png", mask)
    before = mask.read_bytes()
    result = batch(folder, masks=mask)
    assert result.exit_code == 1 and f"{mask} is an input itself; choose another folder" in result.stderr
    assert mask.read_bytes() == before and not red.calls


def test_masks_of_sources_are_no_photographs(folder, red, load) -> None:
    load(red)
    shutil.copy(folder.masks / "a.png", folder.photos / "people.png")
    result = batch(folder, "--exclude", folder.photos / "people.png", masks="masks/a.png")
    assert result.exit_code == 0, result.output
    assert len(red.calls) == 5 and "people_filled.png" not in folder.results()
