"""Folders on this machine and behind URLs behave alike."""

from __future__ import annotations

import os

import fsspec
import pytest

from inpaint.batch import folder as folders
from inpaint.batch import remote_manifest
from inpaint.batch.folder import LocalFolder, RemoteFolder, open_folder
from inpaint.batch.manifest import Entry
from inpaint.batch.remote_manifest import manifest_of
from inpaint.errors import InpaintError


def of_arrow(path) -> RemoteFolder:
    arrow = pytest.importorskip("fsspec.implementations.arrow")
    pyarrow = pytest.importorskip("pyarrow.fs", reason="Arrow's file systems need pyarrow")
    return RemoteFolder(arrow.ArrowFSWrapper(pyarrow.LocalFileSystem()), str(path), f"arrow://{path}")


KINDS = {
    "path": lambda path: open_folder(str(path)),
    "file URL": lambda path: open_folder(f"file://{path}"),
    "memory": lambda path: open_folder(f"memory://{path.name}/{id(path)}"),
    "fsspec": lambda path: RemoteFolder(fsspec.filesystem("dir", path="/", target_protocol="file"), str(path), "x://y"),
    "Arrow": of_arrow,
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read(kind, tmp_path) -> None:
    folder = KINDS[kind](tmp_path / "not yet there")
    assert list(folder.names()) == [] and folder.size("a.png") is None
    for name in ("b/c/d.png", "a.png", ".hidden.png", "b/.hidden/e.png"):
        folder.write(name, name.encode())
    assert sorted(folder.names()) == ["a.png", "b/c/d.png"]
    assert folder.read("b/c/d.png") == b"b/c/d.png" and folder.size("a.png") == 5
    folder.write("a.png", b"another")
    assert folder.read("a.png") == b"another" and folder.size("a.png") == 7
    with pytest.raises(OSError):
        folder.read("c.png")


@pytest.mark.parametrize("kind", ["path", "memory", "Arrow"])
def test_a_folder_in_it_can_be_left_out(kind, tmp_path) -> None:
    folder, inner = KINDS[kind](tmp_path), KINDS[kind](tmp_path / "out")
    if kind == "memory":
        folder, inner = open_folder("memory://left"), open_folder("memory://left/out/")
    folder.write("a.png", b"")
    folder.write("outer.png", b"")
    inner.write("b.png", b"")
    assert sorted(folder.names([inner])) == ["a.png", "outer.png"] and list(inner.names()) == ["b.png"]


@pytest.mark.parametrize("kind", ["fsspec", "Arrow"])
def test_a_file_that_cannot_be_completed_leaves_nothing(kind, tmp_path, monkeypatch) -> None:
    folder = KINDS[kind](tmp_path)
    folder.write("a.png", b"before")

    def fail(*paths) -> None:
        raise OSError("no")

    monkeypatch.setattr(folder._filesystem, "mv", fail)
    with pytest.raises(OSError):
        folder.write("a.png", b"after")
    assert os.listdir(tmp_path) == ["a.png"] and folder.read("a.png") == b"before"


def test_urls_that_nothing_opens_are_refused() -> None:
    with pytest.raises(InpaintError, match="cannot open nothing://there: expected a URL that fsspec or Arrow opens"):
        open_folder("nothing://there")


def test_where_fsspec_lacks_a_package_arrow_opens_the_url(tmp_path, monkeypatch) -> None:
    pytest.importorskip("pyarrow.fs", reason="Arrow's file systems need pyarrow")

    def url_to_fs(url, **options):
        raise ImportError("install a package")

    (tmp_path / "a.png").write_bytes(b"content")
    monkeypatch.setattr(folders.fsspec, "url_to_fs", url_to_fs)
    folder = open_folder(f"file://{tmp_path}")
    assert isinstance(folder, RemoteFolder) and folder.read("a.png") == b"content"


def test_the_manifest_behind_a_url_is_copied_now_and_then(monkeypatch) -> None:
    folder = open_folder("memory://manifest")
    with manifest_of(folder) as manifest:
        manifest.add(Entry("a.png", "key", "a_filled.png", 5))
        assert folder.size("manifest.jsonl") is None
        monkeypatch.setattr(remote_manifest, "SECONDS", 0.0)
        manifest.add(Entry("b.png", "key", "b_filled.png", 5))
        assert len(folder.read("manifest.jsonl").splitlines()) == 2
        monkeypatch.setattr(remote_manifest, "SECONDS", 60.0)
        manifest.add(Entry("c.png", "key", error="no"))
    assert len(folder.read("manifest.jsonl").splitlines()) == 3
    with manifest_of(folder) as manifest:
        assert manifest.entry("b.png") == Entry("b.png", "key", "b_filled.png", 5, notes=[])
    assert len(folder.read("manifest.jsonl").splitlines()) == 3


def test_the_manifest_of_a_folder_here_is_the_file_itself(tmp_path) -> None:
    with manifest_of(LocalFolder(tmp_path)) as manifest:
        manifest.add(Entry("a.png", "key", error="no"))
        assert len((tmp_path / "manifest.jsonl").read_bytes().splitlines()) == 1
