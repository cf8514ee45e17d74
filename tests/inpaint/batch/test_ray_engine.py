"""Many photographs on a Ray cluster of two workers: each once, whatever becomes of the workers."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("ray.data", reason="the engine needs Ray Data: pip install 'ray[data]'")

import inpaint
from inpaint.batch import local, ray_engine
from inpaint.batch.folder import LocalFolder
from inpaint.batch.local import DiskFullError
from inpaint.batch.manifest import Manifest, parse
from inpaint.batch.pairs import files_in, pair
from inpaint.batch.ray_engine import Places, Workers
from inpaint.batch.task import Options
from inpaint.commands import batch_on_ray, main
from inpaint.errors import InpaintError

TWO = Workers(2, 0, 1, 1)
OPTIONS = Options(precision="float32", max_memory=2.0**30)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with ray_engine.cluster(None, processors=2):
        yield


@pytest.fixture
def many(folder):
    """Twelve photographs more."""
    for number in range(12):
        folder.add(f"many/{number:02}.png", number)
    return folder


def fill(
    folder, *, options=OPTIONS, stop=None, ended=None, load=ray_engine.load, places=Places, workers=TWO
) -> dict[str, list[str]]:
    """Runs it. Of each photograph, as often as it ended: "filled", "done before", or why not."""
    became: dict[str, list[str]] = {}

    def end(pair, entry) -> None:
        became.setdefault(pair.photograph, []).append("done before" if entry is None else entry.error or "filled")
        if ended:
            ended(became)

    folder.out.mkdir(exist_ok=True)
    places = places(*map(LocalFolder, (folder.photos, folder.out, folder.masks)))
    with Manifest(folder.manifest) as manifest:
        ray_engine.run(
            pair(files_in(folder.photos), files_in(folder.masks)).pairs,
            places,
            options,
            workers,
            manifest,
            stop=stop or threading.Event(),
            ended=end,
            load=load,
        )
    return became


def fill_locally(folder, out: Path) -> None:
    out.mkdir()
    with Manifest(out / "manifest.jsonl") as manifest:
        local.run(
            pair(files_in(folder.photos), files_in(folder.masks)).pairs,
            local.Places(folder.photos, out, folder.masks),
            OPTIONS,
            inpaint.load(device="cpu", precision="float32", max_memory=2**30),
            manifest,
            jobs=1,
            threads=1,
            stop=threading.Event(),
            ended=lambda *_: None,
        )


def filling_processes() -> list[int]:
    """The processes of this test's Ray that fill photographs."""
    parents, titles = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(path.name)] = (path / "cmdline").read_text()
        except OSError:  # it has ended
            continue

    def is_ours(process: int) -> bool:
        return process == os.getpid() or (process in parents and is_ours(parents[process]))

    return [process for process, title in titles.items() if title.startswith("ray::Map") and is_ours(process)]


def test_one_worker_is_killed(many, tmp_path) -> None:
    killed, loaded = [], tmp_path / "loaded"

    def load(options, workers):
        with loaded.open("a") as file:
            file.write("once\n")
        return ray_engine.load(options, workers)

    def kill(became) -> None:
        if len(became) == 4:
            killed.extend(filling_processes()[:1])
            os.kill(killed[0], signal.SIGKILL)

    became = fill(many, ended=kill, load=load)
    assert killed and len(loaded.read_text().splitlines()) in (2, 3)  # the killed one may have been started anew
    assert len(became) == 17 and set(map(tuple, became.values())) == {("filled",)}
    lines = many.manifest.read_bytes()
    assert len(lines.splitlines()) == 17

    fill_locally(many, tmp_path / "locally")
    names = {path.relative_to(tmp_path / "locally") for path in (tmp_path / "locally").rglob("*.*")}
    assert {Path(name) for name in many.results()} == names - {Path("manifest.jsonl")}
    for name, content in many.results().items():
        assert content == (tmp_path / "locally" / name).read_bytes(), name

    before = parse((tmp_path / "locally" / "manifest.jsonl").read_bytes())
    assert before.keys() == parse(lines).keys()
    for name, entry in parse(lines).items():
        assert (entry.key, entry.bytes, entry.output) == (before[name].key, before[name].bytes, before[name].output)


@pytest.fixture
def killer():
    """Fills with red. A black photograph kills its worker, and a white one is an error of its own."""

    def load(options, workers):  # nested, so that it is sent to the workers, which know nothing of this file
        from inpaint.photo import Patch
        from inpaint.work import Filled

        class Killer:
            def fill(self, job):
                mean = job.picture.colours().mean().item()
                if mean == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                if mean == 1:
                    raise RuntimeError("odd")
                red = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, *job.hole.shape)
                return Filled(job.picture.filled([Patch(slice(None), slice(None), red, job.hole)]), job.notes, [])

        return Killer()

    return load


def test_some_photographs_are_bad(many, killer) -> None:
    Image.new("RGB", (32, 24), "black").save(many.photos / "many" / "03.png")
    Image.new("RGB", (32, 24), "white").save(many.photos / "many" / "05.png")
    (many.photos / "b.jpg").write_bytes(b"\xff\xd8\xff cut off")
    became = fill(many, load=killer)
    assert len(became) == 17 and all(len(ends) == 1 for ends in became.values())
    errors = {name: ends[0] for name, ends in became.items() if ends != ["filled"]}
    assert "the process that filled it ended 3 times" in errors.pop("many/03.png")
    assert errors.pop("many/05.png") == "unexpected RuntimeError: odd"
    assert "truncated or damaged" in errors.pop("b.jpg") and not errors
    assert len(many.results()) == 14

    many.add("many/03.png", 3)
    again = fill(many, load=killer, workers=Workers(1, 0, 2, 4))  # four threads in one worker
    assert again.pop("many/03.png") == ["filled"]
    assert again.pop("many/05.png") == ["unexpected RuntimeError: odd"]
    assert "truncated or damaged" in again.pop("b.jpg")[0]
    assert len(again) == 14 and set(map(tuple, again.values())) == {("done before",)}


def test_no_room_ends_the_run(folder, killer) -> None:
    class Full(Places):
        def write(self, pair, content) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DiskFullError, match="out: no space left on device; mend that, and give the same command again"):
        fill(folder, load=killer, places=Full)
    assert folder.results() == {} and folder.manifest.read_bytes() == b""


def test_the_command_goes_on_where_a_run_was_ended(many) -> None:
    def load(options, workers):
        inpainter = ray_engine.load(options, workers)

        class Slow:
            def fill(self, job):
                time.sleep(0.4)
                return inpainter.fill(job)

        return Slow()

    stop = threading.Event()
    became = fill(many, stop=stop, ended=lambda became: stop.set(), load=load)
    assert 0 < len(became) < 17 and set(map(tuple, became.values())) == {("filled",)}
    assert len(many.results()) == len(became)
    urls = [f"file://{path}" for path in (many.photos, many.masks, many.out)]
    options = ["--engine", "ray", "--precision", "float32", "--max-memory", "1", "--device", "cpu", "--json"]
    result = CliRunner().invoke(main, ["batch", *urls[:2], "-o", urls[2], *options])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])  # Ray may tell of the run before
    assert (report["done_before"], report["filled"]) == (len(became), 17 - len(became))
    assert len(many.results()) == 17 and len(many.manifest.read_bytes().splitlines()) == 17


def test_plans() -> None:
    assert ray_engine.plan("auto", None, None, 100) == Workers(2, 0, 1, 1)
    assert ray_engine.plan("cpu", 1, None, 100) == Workers(1, 0, 2, 1)
    assert ray_engine.plan("cpu", 5, 1, 3) == Workers(3, 0, 1, 1)
    with pytest.raises(InpaintError, match="expected a Ray cluster with GPUs, found none; use --device cpu"):
        ray_engine.plan("cuda", None, None, 1)
    machines = [{"Alive": True, "Resources": {"CPU": 16.0, "GPU": 2.0}}] * 3 + [{"Alive": False, "Resources": {}}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_engine.ray, "nodes", lambda: machines)
        assert ray_engine.plan("auto", None, None, 1000) == Workers(6, 1, 8, 16)
        assert ray_engine.plan("cuda", 12, None, 1000) == Workers(6, 1, 2, 2)
        assert ray_engine.plan("cuda", 1, None, 1000) == Workers(1, 1, 1, 1)
        assert ray_engine.plan("cpu", None, None, 1000) == Workers(48, 0, 1, 1)
        with pytest.raises(InpaintError, match="a worker would have 24 processors, and the largest machine"):
            ray_engine.plan("cpu", 2, None, 1000)


def test_urls_need_ray() -> None:
    result = CliRunner().invoke(main, ["batch", "in", "--box", "1,1,1,1", "-o", "s3://bucket/out"])
    assert result.exit_code == 2 and "s3://bucket/out is a URL: give --engine ray, or a path." in result.output


def test_masks_here_and_results_behind_a_url(folder) -> None:
    mask = folder.masks / "a.png"
    places, _ = batch_on_ray.find(folder.photos, mask, "memory://out")
    assert places.mask is not None and places.mask.content == mask.read_bytes() and places.masks is None
    named_like_a_file = folder.masks.rename(folder.path / "masks.png")
    places, found = batch_on_ray.find(folder.photos, named_like_a_file, "memory://out")
    assert places.mask is None and places.masks is not None and len(found.pairs) == 5


def test_a_worker_without_the_library_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(ray_engine.ops, "extension", None)
    ray_engine._check_library(False)
    with pytest.raises(InpaintError, match="expected the compiled library of patchswap, found none"):
        ray_engine._check_library(True)


def test_workers_do_not_import_from_the_folder_of_the_run(cluster) -> None:
    """A checkout would hide the installed packages there."""
    paths = ray_engine.ray.get(ray_engine.ray.remote(lambda: sys.path).remote())
    assert str(Path.cwd()) not in paths
