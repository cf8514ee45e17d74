"""Which photograph belongs to which mask, and what a folder holds."""

from __future__ import annotations

import pytest

from inpaint.batch.pairs import Pair, files_in, pair


def test_a_mask_has_the_name_of_its_photograph_and_any_extension() -> None:
    found = pair(["b.JPG", "a.tif", "notes.txt", "c.heif"], ["a.png", "b.json", "c.PNG", "notes.png", "read.me"])
    assert found.pairs == [
        Pair("a.tif", "a.png", "a_filled.tif"),
        Pair("b.JPG", "b.json", "b_filled.JPG"),
        Pair("c.heif", "c.PNG", "c_filled.png"),
    ]
    assert found.masks_without_photograph == ["notes.png"] and not found.refused


def test_pairs_lie_in_the_same_sub_folder() -> None:
    found = pair(["a.png", "x/a.png", "x/y/b.png"], ["a.png", "x/y/b.png", "y/a.png"])
    assert found.pairs == [
        Pair("a.png", "a.png", "a_filled.png"),
        Pair("x/y/b.png", "x/y/b.png", "x/y/b_filled.png"),
    ]
    assert found.photographs_without_mask == ["x/a.png"] and found.masks_without_photograph == ["y/a.png"]


def test_photographs_of_one_stem_share_a_mask() -> None:
    found = pair(["a.jpg", "a.png"], ["a.bmp"])
    assert found.pairs == [Pair("a.jpg", "a.bmp", "a_filled.jpg"), Pair("a.png", "a.bmp", "a_filled.png")]


def test_several_masks_of_one_photograph_are_refused() -> None:
    found = pair(["a.jpg", "b.jpg"], ["a.bmp", "a.png", "b.png"])
    assert [each.photograph for each in found.pairs] == ["b.jpg"]
    assert found.refused == {"a.jpg": "expected one mask, got 2: a.bmp, a.png; leave one of them"}
    assert not found.masks_without_photograph


def test_results_of_one_name_are_refused() -> None:
    found = pair(["a.heif", "a.png", "b.png"], None)
    assert [each.photograph for each in found.pairs] == ["b.png"]
    assert found.refused.keys() == {"a.heif", "a.png"}
    assert found.refused["a.png"].startswith("a_filled.png would be the result of a.heif, a.png; give them different")


def test_without_a_folder_of_masks_no_photograph_has_one_and_with_an_empty_one_all_lack_it() -> None:
    assert pair(["a.png"], None).pairs == [Pair("a.png", None, "a_filled.png")]
    assert pair(["a.png"], []).photographs_without_mask == ["a.png"]
    assert pair([], ["a.png"]).masks_without_photograph == ["a.png"]


@pytest.mark.parametrize("name", ["a.b.png", "ä ö.png", "%20#.png", "x.y/a.png", "-.png"])
def test_unusual_names(name: str) -> None:
    (found,) = pair([name], [name]).pairs
    assert found.mask == name and found.output == name.removesuffix(".png") + "_filled.png"


def test_files_of_a_folder(tmp_path) -> None:
    for name in ("a.png", "x/b.png", "x/y/c.png", ".hidden.png", ".cache/d.png", "out/e.png", "mask.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "other.png").symlink_to(tmp_path / "a.png")
    left_out = [tmp_path / "x" / ".." / "out", tmp_path / "mask.png"]
    assert sorted(files_in(tmp_path, left_out)) == ["a.png", "other.png", "x/b.png", "x/y/c.png"]
    with pytest.raises(OSError, match="nowhere"):
        list(files_in(tmp_path / "nowhere"))
