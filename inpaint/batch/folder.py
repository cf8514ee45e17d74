"""Folders of files on this machine, or behind any URL that fsspec or Arrow opens, such as s3://bucket/photographs.

Names are relative to the folder, with "/" between their parts, as in ``inpaint.batch.pairs``.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import fsspec

from inpaint.batch.local import UNFINISHED
from inpaint.batch.pairs import files_in
from inpaint.errors import InpaintError
from inpaint.photo import write_file

# Here a file appears when all of it has arrived. Elsewhere it is written under another name first.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "memory"}


class Folder(Protocol):
    """Can be pickled and sent to other machines. All methods raise OSError where a file cannot be read or written."""

    def names(self, without: Collection[Folder] = ()) -> Iterator[str]:
        """All files of the folder and its sub-folders, except names that begin with a dot and the folders ``without``.

        Files of a folder that does not exist are none.
        """

    def read(self, name: str) -> bytes: ...

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""

    def write(self, name: str, content: bytes) -> None:
        """The file appears whole or not at all; folders that it needs are made."""


def is_url(place: str) -> bool:
    return "://" in place


def open_folder(place: str) -> Folder:
    """The folder behind a path or a URL.

    Raises:
        InpaintError: nothing is installed that opens such URLs.
    """
    if not is_url(place):
        return LocalFolder(Path(place).absolute())
    filesystem, root = _filesystem(place)
    if getattr(filesystem, "local_file", False):
        return LocalFolder(Path(root))
    return RemoteFolder(filesystem, root, place.rstrip("/"))


class LocalFolder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def names(self, without: Collection[Folder] = ()) -> Iterator[str]:
        left_out = [other.path for other in without if isinstance(other, LocalFolder)]
        return files_in(self.path, left_out) if self.path.exists() else iter(())

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def size(self, name: str) -> int | None:
        path = self.path / name
        return path.stat().st_size if path.is_file() else None

    def write(self, name: str, content: bytes) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content, temporary=UNFINISHED)


class RemoteFolder:
    """A folder of an fsspec file system. ``url`` is what messages call it."""

    def __init__(self, filesystem: Any, root: str, url: str) -> None:
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        self._url = url

    def __str__(self) -> str:
        return self._url

    def names(self, without: Collection[Folder] = ()) -> Iterator[str]:
        left_out = [f"{other._root}/" for other in without if isinstance(other, RemoteFolder)]
        start = f"{self._root}/"
        with suppress(FileNotFoundError):
            for path in sorted(self._filesystem.find(self._root)):
                name = path.removeprefix(start)
                is_hidden = any(part.startswith(".") for part in name.split("/"))
                if path.startswith(start) and not is_hidden and not path.startswith(tuple(left_out)):
                    yield name

    def read(self, name: str) -> bytes:
        return self._filesystem.cat_file(self._at(name))

    def size(self, name: str) -> int | None:
        try:
            return self._filesystem.size(self._at(name))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        final = self._at(name)
        protocol = self._filesystem.protocol
        if _OBJECT_STORES.intersection([protocol] if isinstance(protocol, str) else protocol):
            self._filesystem.pipe_file(final, content)
            return
        folder = final.rpartition("/")[0]
        unfinished = f"{folder}/.inpaint-{UNFINISHED}{secrets.token_hex(8)}.tmp"
        self._filesystem.makedirs(folder, exist_ok=True)
        try:
            self._filesystem.pipe_file(unfinished, content)
            self._filesystem.mv(unfinished, final)
        except BaseException:
            with suppress(Exception):
                self._filesystem.rm_file(unfinished)
            raise

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"


def _filesystem(url: str) -> tuple[Any, str]:
    """An fsspec file system and the path in it; Arrow's where fsspec lacks the package for these URLs."""
    try:
        return fsspec.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as missing:
        try:
            from fsspec.implementations.arrow import ArrowFSWrapper
            from pyarrow.fs import FileSystem

            filesystem, root = FileSystem.from_uri(url)
        except (ImportError, ValueError) as error:
            detail = " ".join(str(missing).split())
            raise InpaintError(
                f"cannot open {url}: expected a URL that fsspec or Arrow opens ({detail}); install that package"
            ) from error
        return ArrowFSWrapper(filesystem), root
