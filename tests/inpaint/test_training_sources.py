from __future__ import annotations

import dataclasses
import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inpaint.errors import InpaintError
from inpaint.training.config import TrainingConfig
from inpaint.training.data import Photographs, batches
from inpaint.training.sources import find_photographs, open_photograph

CONFIG = TrainingConfig(image_size=16, batch=3, steps=5, workers=0)


def encoded(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (20 + number, 24, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG" if number % 2 else "JPEG")
    return stream.getvalue()


def write_shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of four photographs each, with labels beside them, as WebDataset writes them."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(3):
        members = {}
        for number in range(4 * shard, 4 * shard + 4):
            members[f"{number:04d}.{'png' if number % 2 else 'jpg'}"] = encoded(number)
            members[f"{number:04d}.cls"] = b"7"
        write_shard(folder / f"train-{shard:02d}.tar", members)
    return folder


def contents(data: Path | str) -> list[bytes]:
    return [open_photograph(photograph).read() for photograph in find_photographs(data)]


def test_members_are_read_where_they_lie(shards: Path) -> None:
    assert contents(shards) == [encoded(number) for number in range(12)]
    assert str(find_photographs(shards)[5]).endswith("train-01.tar/0005.png")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("train-01.tar", range(4, 8)),
        ("train-*.tar", range(12)),
        ("*[02].tar", [0, 1, 2, 3, 8, 9, 10, 11]),
        ("train-{00..01}.tar", range(8)),
        ("{train,train}-{02,00}.tar", [8, 9, 10, 11, 0, 1, 2, 3] * 2),
    ],
)
def test_patterns_name_shards(shards: Path, pattern: str, expected: list[int]) -> None:
    assert contents(f"{shards}/{pattern}") == [encoded(number) for number in expected]


def test_image_files_and_shards_may_lie_in_one_tree(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "z.jpg").write_bytes(encoded(100))
    (tmp_path / "a.tar").write_bytes((shards / "train-00.tar").read_bytes())
    assert contents(tmp_path) == [encoded(number) for number in (100, 0, 1, 2, 3)]


def test_shards_give_the_batches_of_the_same_files_in_a_folder(shards: Path, tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number:04d}.{'png' if number % 2 else 'jpg'}").write_bytes(encoded(number))
    expected = list(batches(Photographs(tmp_path, CONFIG)))
    for workers in (0, 2):
        found = list(batches(Photographs(shards, dataclasses.replace(CONFIG, workers=workers))))
        for one, other in zip(expected, found, strict=True):
            assert torch.equal(one.image, other.image) and torch.equal(one.hole, other.hole)


def test_processes_share_each_batch(shards: Path) -> None:
    whole = Photographs(shards, CONFIG)[3]
    parts = [Photographs(shards, CONFIG, share=(rank, 3))[3] for rank in range(3)]
    assert torch.equal(torch.cat([part.image for part in parts]), whole.image)
    assert torch.equal(torch.cat([part.hole for part in parts]), whole.hole)


def test_damage_is_left_out_and_named(tmp_path: Path) -> None:
    good = {f"{number}.jpg": encoded(2 * number) for number in range(4)}
    write_shard(tmp_path / "a.tar", {**good, "broken.png": b"not a picture", "cut.png": encoded(1)[:200], "e.jpg": b""})
    whole = (tmp_path / "a.tar").read_bytes()
    second = find_photographs(tmp_path / "a.tar")[1].offset - 512  # where its header begins
    (tmp_path / "b.tar").write_bytes(whole[: second + 99])
    (tmp_path / "c.tar").write_bytes(b"no tar file")
    (tmp_path / "f.tar").write_bytes(whole[:second] + b"x" * 512 + whole[second + 512 :])
    (tmp_path / "g.tar").write_bytes(whole[: second - 600])  # ends within the first photograph
    assert len(contents(tmp_path / "b.tar")) == len(contents(tmp_path / "f.tar")) == 1 + 1  # and the shard itself
    (tmp_path / "d.jpg").write_bytes(encoded(9))
    config = dataclasses.replace(CONFIG, steps=20)
    unreadable = {name for batch in batches(Photographs(tmp_path, config)) for name in batch.unreadable}
    damaged = {"broken.png", "cut.png", "e.jpg", "b.tar", "c.tar", "f.tar", "g.tar"}
    assert {Path(name).name for name in unreadable} >= damaged
    assert not any(Path(name).parent.name == "a.tar" and Path(name).stem.isdigit() for name in unreadable)


def test_what_cannot_be_read_as_a_shard_is_refused_before_training(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(gzip.compress((shards / "train-00.tar").read_bytes()))
    with pytest.raises(InpaintError, match="expected an uncompressed .tar shard"):
        find_photographs(tmp_path)
    with pytest.raises(InpaintError, match="train-03.tar: expected .*found none"):
        find_photographs(f"{shards}/train-{{00..03}}.tar")
    write_shard(tmp_path / "a.tar", {"label.txt": b"7"})
    with pytest.raises(InpaintError, match="expected photographs .* found none; check --data"):
        find_photographs(tmp_path / "a.tar")
