"""Where photographs lie: image files in folders, and members of tar shards as WebDataset writes them.

Shards are read by place, not as a stream: an index of where each member's bytes begin lets any photograph be opened on
its own. The order of a run then follows from its seed alone, whatever the number of workers and processes, and a
resumed run need not read again what it has seen. The package ``webdataset`` streams each shard in one worker, so that
its order depends on the number of workers and nothing of it can be resumed.
"""

from __future__ import annotations

import glob
import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from inpaint.errors import InpaintError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class Member(NamedTuple):
    """An image in an uncompressed tar file: ``size`` bytes from ``offset`` on."""

    shard: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"


Photograph = Path | Member


def find_photographs(data: Path | str) -> list[Photograph]:
    """All photographs of ``data``, in an order that depends on the names alone.

    Args:
        data: a folder tree of image files and .tar shards, one .tar file, or a pattern of them: ``*``, ``?``, ``[]``,
            ``**``, ``{a,b}`` and ``{000..127}``.

    Raises:
        InpaintError: nothing there, a shard of a list in braces is missing, or a shard is compressed.
    """
    files = _find_files(str(data))
    photographs: list[Photograph] = [file for file in files if file.suffix.lower() in SUFFIXES]
    for shard in files:
        if shard.suffix.lower() == ".tar":
            photographs.extend(_members(shard))
    if not photographs:
        raise InpaintError(
            f"{data}: expected photographs ({', '.join(SUFFIXES)}) or .tar shards of them, found none; check --data"
        )
    return photographs


def open_photograph(photograph: Photograph) -> BinaryIO:
    """The photograph's encoded bytes."""
    if isinstance(photograph, Path):
        return open(photograph, "rb")
    with open(photograph.shard, "rb") as shard:
        shard.seek(photograph.offset)
        return io.BytesIO(shard.read(photograph.size))


def _find_files(data: str) -> list[Path]:
    folder = Path(data)
    if folder.is_dir():
        return sorted(folder.rglob("*"))
    files: list[Path] = []
    for pattern in _expand_braces(data):
        if Path(pattern).is_file():
            files.append(Path(pattern))
        elif found := glob.glob(pattern, recursive=True):
            files.extend(sorted(map(Path, found)))
        else:
            raise InpaintError(
                f"{pattern}: expected a folder of photographs or of .tar shards, or shards, found none; check --data"
            )
    return files


def _expand_braces(pattern: str) -> Iterator[str]:
    """``a-{00..02}.tar`` and ``{a,b}.tar``, as a shell expands them."""
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if not braces:
        yield pattern
        return
    if bounds := re.fullmatch(r"(\d+)\.\.(\d+)", braces[1]):
        width = max(map(len, bounds.groups())) if any(bound.startswith("0") for bound in bounds.groups()) else 0
        choices = [f"{number:0{width}}" for number in range(int(bounds[1]), int(bounds[2]) + 1)]
    else:
        choices = braces[1].split(",")
    for choice in choices:
        yield from _expand_braces(pattern[: braces.start()] + choice + pattern[braces.end() :])


def _members(shard: Path) -> list[Photograph]:
    """The images in ``shard``; the last item is ``shard`` itself where it is damaged.

    No photograph will come out of that one, so that it is counted with the files that cannot be read.
    """
    found: list[Photograph] = []
    with open(shard, "rb") as file:
        if file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")):
            raise InpaintError(f"{shard}: expected an uncompressed .tar shard, got a compressed one; unpack it once")
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES:
                        found.append(Member(shard, member.name, member.offset_data, member.size))
                    archive.members = []  # type: ignore[attr-defined]  # the archive would keep them all
                file.seek(archive.offset)
        except (tarfile.TarError, OSError, ValueError):
            return [*found, shard]
        whole = file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)  # tarfile takes any other end for the end too
    return found if whole else [*found, shard]
