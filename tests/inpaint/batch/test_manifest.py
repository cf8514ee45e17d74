"""The manifest remembers what is done, whatever ends a run."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from inpaint.batch.manifest import Entry, Manifest, parse
from inpaint.errors import InpaintError


@pytest.fixture
def output(tmp_path: Path) -> Path:
    path = tmp_path / "a_filled.png"
    path.write_bytes(b"12345")
    return path


DONE = Entry("a.png", "key", "a_filled.png", 5, notes=("one",), seconds=0.5)


def test_what_was_added_is_known_to_the_next_run(tmp_path: Path, output: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    with Manifest(path) as manifest:
        assert not manifest.is_done("a.png", "key", output)
        manifest.add(DONE)
        assert manifest.is_done("a.png", "key", output)
        manifest.add(Entry("b.png", "other", error="cannot read b.png"))
    assert [json.loads(line)["photograph"] for line in path.read_text().splitlines()] == ["a.png", "b.png"]
    with Manifest(path) as manifest:
        assert manifest.is_done("a.png", "key", output)
        assert not manifest.is_done("a.png", "another key", output)
        assert not manifest.is_done("b.png", "other", output)
        output.write_bytes(b"123")
        assert not manifest.is_done("a.png", "key", output)
        output.unlink()
        assert not manifest.is_done("a.png", "key", output)
        manifest.add(Entry("a.png", "another key", error="failed now"))
        output.write_bytes(b"12345")
        assert not manifest.is_done("a.png", "key", output)


@pytest.mark.parametrize("torn", [b"", b"{", b'{"photograph": "b.png", "key"', b"\xff\0", b'"text"', b"[1]", b"{}"])
def test_a_line_that_is_cut_off_counts_for_nothing(tmp_path: Path, output: Path, torn: bytes) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(DONE.line().encode() + torn)
    with Manifest(path) as manifest:
        assert manifest.is_done("a.png", "key", output)
        manifest.add(Entry("c.png", "key", "a_filled.png", 5))
    with Manifest(path) as manifest:
        assert manifest.is_done("a.png", "key", output) and manifest.is_done("c.png", "key", output)
        assert not manifest.is_done("b.png", "key", output)


def test_entries_survive_as_json() -> None:
    entries = [DONE, Entry("b\n\u2028.png", "k", error="wrong: ü"), Entry("c.png", "")]
    content = "".join(entry.line() for entry in entries).encode()
    assert content.count(b"\n") == 3
    assert {name: entry.line() for name, entry in parse(content).items()} == {
        entry.photograph: entry.line() for entry in entries
    }


def test_only_one_run_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    with Manifest(path), pytest.raises(InpaintError, match="in use by another run; wait for it"):
        Manifest(path)
    Manifest(path).close()
    with pytest.raises(InpaintError, match="cannot write .*no such file"):
        Manifest(tmp_path / "nowhere" / "manifest.jsonl")


def test_on_a_full_disk_the_file_stays_as_it_was(tmp_path: Path, output: Path) -> None:
    class Full:
        """A file on a disk that is full after seven bytes."""

        def __init__(self, file) -> None:
            self.file = file

        def write(self, content: bytes) -> int:
            return self.file.write(content[:7])

        def __getattr__(self, name: str):
            return getattr(self.file, name)

    path = tmp_path / "manifest.jsonl"
    with Manifest(path) as manifest:
        manifest.add(DONE)
        before = path.read_bytes()
        file, manifest._file = manifest._file, Full(manifest._file)
        with pytest.raises(OSError, match="No space left"):
            manifest.add(Entry("b.png", "key", "a_filled.png", 5))
        assert path.read_bytes() == before and not manifest.is_done("b.png", "key", output)
        manifest._file = file
        manifest.add(Entry("b.png", "key", "a_filled.png", 5))
    assert parse(path.read_bytes()).keys() == {"a.png", "b.png"}


def test_threads_add_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    with Manifest(path) as manifest:
        threads = [
            threading.Thread(target=lambda first=first: [manifest.add(Entry(f"{first}-{n}", "k")) for n in range(50)])
            for first in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(parse(path.read_bytes())) == len(path.read_bytes().splitlines()) == 400
