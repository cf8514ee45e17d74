"""Many photographs on one machine: each once, whatever is wrong with its neighbours."""

from __future__ import annotations

import errno
import json
import os
import threading
import time

import numpy as np
import pytest
from PIL import Image

from inpaint.batch import local, task
from inpaint.batch.local import DiskFullError, Places, run
from inpaint.batch.manifest import Manifest
from inpaint.batch.pairs import files_in, pair
from inpaint.batch.side_by_side import SideBySide
from inpaint.batch.task import File, Options
from inpaint.batch.together import Together
from inpaint.marking import Marking


def fill(folder, inpainter, options=None, *, jobs=2, stop=None, mask=None, ended=None) -> dict[str, str]:
    """Runs it. Of each photograph: "filled", "done before", or why it failed."""
    became = {}

    def end(pair, entry) -> None:
        became[pair.photograph] = "done before" if entry is None else entry.error or "filled"
        if ended:
            ended()

    masks = None if mask else folder.masks
    pairs = pair(files_in(folder.photos), files_in(masks) if masks else None).pairs
    folder.out.mkdir(exist_ok=True)
    with Manifest(folder.manifest) as manifest:
        run(
            pairs,
            Places(folder.photos, folder.out, masks, mask),
            options or Options(),
            inpainter,
            manifest,
            jobs=jobs,
            threads=1,
            stop=stop or threading.Event(),
            ended=end,
        )
    return became


def test_every_photograph_is_filled_once(folder, red) -> None:
    assert set(fill(folder, red).values()) == {"filled"} and len(red.calls) == 5
    outputs = folder.results()
    assert outputs.keys() == {
        "a_filled.png",
        "b_filled.jpg",
        "c_filled.tif",
        "sub/a_filled.webp",
        "sub/deep/d_filled.png",
    }
    for name in ("a.png", "c.tif", "sub/a.webp", "sub/deep/d.png"):
        before = np.asarray(Image.open(folder.photos / name))
        stem, extension = name.rsplit(".", 1)
        after = np.asarray(Image.open(folder.out / f"{stem}_filled.{extension}"))
        hole = folder.holes[name]
        assert np.array_equal(after[~hole], before[~hole]) and (after[hole] == (255, 0, 0)).all()
    assert set(fill(folder, red).values()) == {"done before"} and len(red.calls) == 5
    assert folder.results() == outputs


def test_what_changed_is_filled_again(folder, red) -> None:
    fill(folder, red)
    folder.add("a.png", 77)  # another photograph, and another mask
    Image.fromarray(~folder.holes["b.jpg"]).save(folder.masks / "b.png")
    (folder.out / "c_filled.tif").unlink()
    (folder.out / "sub" / "a_filled.webp").write_bytes(b"cut off")
    folder.add("e.png", 5)
    became = fill(folder, red)
    assert [name for name, what in became.items() if what == "done before"] == ["sub/deep/d.png"]
    assert set(became.values()) == {"filled", "done before"} and len(became) == 6
    assert set(fill(folder, red, Options(Marking(dilate=1))).values()) == {"filled"}
    assert set(fill(folder, red, Options(Marking(dilate=1))).values()) == {"done before"}


def test_bad_files_among_good_ones(folder, red) -> None:
    content = (folder.photos / "b.jpg").read_bytes()
    (folder.photos / "b.jpg").write_bytes(content[: len(content) // 2])
    (folder.photos / "c.tif").write_bytes(b"II*\0no picture")
    (folder.masks / "sub" / "a.png").write_bytes(b"")
    (folder.photos / "gone.png").symlink_to(folder.path / "nowhere.png")
    (folder.masks / "gone.png").symlink_to(folder.masks / "a.png")
    became = fill(folder, red)
    assert became["a.png"] == became["sub/deep/d.png"] == "filled"
    for name, message in {
        "b.jpg": "b.jpg: the image is truncated or damaged",
        "c.tif": "cannot read",
        "sub/a.webp": "masks/sub/a.png: expected a PNG",
        "gone.png": "gone.png: No such file",
    }.items():
        assert message in became[name]
    assert folder.results().keys() == {"a_filled.png", "sub/deep/d_filled.png"}
    errors = {line["photograph"]: line.get("error") for line in map(json.loads, folder.manifest.open())}
    assert errors == {name: None if what == "filled" else what for name, what in became.items()}
    (folder.photos / "b.jpg").write_bytes(content)
    again = fill(folder, red)
    assert again["b.jpg"] == "filled" and again["a.png"] == "done before" and "truncated" not in again["c.tif"]


def test_errors_of_every_type_are_the_photographs_own(folder, red, monkeypatch) -> None:
    errors = iter([ValueError("odd"), MemoryError(), RuntimeError("CUDA out of memory"), KeyError("x")])

    def fail(job) -> None:
        error = next(errors, None)
        if error:
            raise error
        return red.fill_all([job])[0]

    monkeypatch.setattr(red, "fill", fail)
    became = sorted(fill(folder, red, jobs=1).values())
    assert [what.partition(":")[0] for what in became] == [
        "filled",
        "not enough memory",
        "not enough memory",
        "unexpected KeyError",
        "unexpected ValueError",
    ]


def test_a_name_that_is_too_long_is_the_photographs_own(folder, red) -> None:
    folder.add("n" * 250 + ".png", 1)
    became = fill(folder, red)
    assert "name too long" in became.pop("n" * 250 + ".png") and set(became.values()) == {"filled"}


def test_a_full_disk_ends_the_run_and_nothing_is_lost(folder, red, monkeypatch) -> None:
    written = []
    whole = local.write_file

    def write_file(path, content, **options) -> None:
        if len(written) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        written.append(path)
        whole(path, content, **options)

    monkeypatch.setattr(local, "write_file", write_file)
    with pytest.raises(DiskFullError, match="out: no space left on device; mend that, and give the same command again"):
        fill(folder, red, jobs=1)
    assert len(red.calls) == 3 and len(folder.results()) == 2
    assert len(folder.manifest.read_text().splitlines()) == 2  # what was not written did not fail
    monkeypatch.setattr(local, "write_file", whole)
    became = fill(folder, red, jobs=1)
    assert sorted(became.values()) == ["done before"] * 2 + ["filled"] * 3 and len(red.calls) == 6


def test_a_file_that_cannot_be_completed_leaves_nothing(folder, red, monkeypatch) -> None:
    def replace(*paths) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    fill(folder, red)
    before = folder.results()
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(DiskFullError):
        fill(folder, red, Options(Marking(dilate=1)))
    assert folder.results() == before


def test_what_a_killed_run_left_unfinished_is_removed(folder) -> None:
    (folder.out / "sub").mkdir(parents=True)
    left = folder.out / "sub" / f".inpaint-{local.UNFINISHED}0123.tmp"
    other = folder.out / "sub" / ".inpaint-0123.tmp"
    left.touch()
    other.touch()
    local.remove_unfinished(pair(files_in(folder.photos), None).pairs, folder.out)
    assert not left.exists() and other.exists()


def test_once_stopped_what_is_begun_is_finished_and_nothing_else_begun(folder, red) -> None:
    stop = threading.Event()
    became = fill(folder, red, jobs=1, stop=stop, ended=stop.set)
    assert list(became.values()) == ["filled"] and len(folder.results()) == 1
    assert sorted(fill(folder, red).values()) == ["done before"] + ["filled"] * 4


def test_no_more_photographs_are_in_memory_than_jobs(folder, red, monkeypatch) -> None:
    for number in range(12):
        folder.add(f"many/{number}.png", number)
    lock, now, most = threading.Lock(), 0, 0
    fill_one = task.fill

    def counted(*arguments):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        result = fill_one(*arguments)
        with lock:
            now -= 1
        return result

    monkeypatch.setattr(task, "fill", counted)
    fill(folder, red, jobs=3)
    assert most == 3 and len(red.calls) == 17


def test_one_mask_for_all(folder, red) -> None:
    mask = File("all.png", (folder.masks / "a.png").read_bytes())
    assert set(fill(folder, red, mask=mask).values()) == {"filled"}
    after = np.asarray(Image.open(folder.out / "sub/deep/d_filled.png"))
    assert np.array_equal((after == (255, 0, 0)).all(2), folder.holes["a.png"])


def test_the_bytes_are_those_of_one_after_the_other(folder, inpainter) -> None:
    became = fill(folder, SideBySide(inpainter, 2**33, 3), jobs=3)
    assert set(became.values()) == {"filled"}
    for name, content in folder.results().items():
        photograph = folder.photos / name.replace("_filled", "")
        mask = (folder.masks / name.replace("_filled", "")).with_suffix(".png")
        given = task.Given(local.read_file(photograph), local.read_file(mask), name)
        assert task.fill(given, Options(), inpainter).content == content


def test_a_windows_work_waits_for_memory(folder, inpainter) -> None:
    """Only one fits; all get their turn."""
    side_by_side = SideBySide(inpainter, 400 * 24 * 32, 4)
    lock, now, most = threading.Lock(), 0, 0
    fill_one = inpainter.fill

    class Counted:
        def fill(self, job):
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.01)
            filled = fill_one(job)
            with lock:
                now -= 1
            return filled

    side_by_side._inpainter = Counted()
    assert set(fill(folder, side_by_side, jobs=4).values()) == {"filled"} and most == 1


def test_equal_windows_are_filled_in_one_call(folder, red) -> None:
    """All threads wait at the first call; what came meanwhile is the second one."""
    together = Together(red, 4)
    waiting = threading.Event()
    fill_all = red.fill_all

    def held(jobs):
        if not red.calls:
            deadline = time.monotonic() + 10
            while len(together._waiting) < 4 and time.monotonic() < deadline:
                time.sleep(0.001)
        waiting.set()
        return fill_all(jobs)

    red.fill_all = held
    assert set(fill(folder, together, jobs=5).values()) == {"filled"}
    assert waiting.is_set() and red.calls == [1, 4]


def test_one_batch_of_windows_for_several_photographs(folder, inpainter, monkeypatch) -> None:
    sizes = []
    pipeline_fill = inpainter.pipeline.fill

    def counted(crops, *arguments, **options):
        sizes.append(crops.shape[0])
        return pipeline_fill(crops, *arguments, **options)

    monkeypatch.setattr(inpainter.pipeline, "fill", counted)
    together = Together(inpainter, 8)
    mask = File("all.png", (folder.masks / "a.png").read_bytes())
    together._turn.acquire()
    thread = threading.Thread(target=fill, args=(folder, together), kwargs={"jobs": 5, "mask": mask})
    thread.start()
    deadline = time.monotonic() + 10
    while len(together._waiting) < 5 and time.monotonic() < deadline:
        time.sleep(0.001)
    together._turn.release()
    thread.join()
    assert sizes == [5] and len(folder.results()) == 5


def test_a_job_that_fails_takes_no_other_with_it(folder, red) -> None:
    class Picky:
        def fill_all(self, jobs):
            if any((job.picture.samples[0, 0] == 7).all() for job in jobs):
                raise ValueError("sevens")
            return red.fill_all(jobs)

    Image.new("RGB", (32, 24), (7, 7, 7)).save(folder.photos / "a.png")
    became = fill(folder, Together(Picky(), 8), jobs=5)
    assert became.pop("a.png") == "unexpected ValueError: sevens" and set(became.values()) == {"filled"}
