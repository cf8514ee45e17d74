"""Which photographs of a folder there are, which mask belongs to each, and what their results are called.

Names are relative to their folder, with "/" between their parts, so that they stand for files and for URLs alike.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from inpaint.photo import FORMAT_OF_EXTENSION
from inpaint.result_name import result_name

PICTURES = frozenset({*FORMAT_OF_EXTENSION, ".apng", ".heif", ".jfif", ".j2k"})  # extensions, in lower case
MASKS = PICTURES | {".json"}


@dataclass(frozen=True)
class Pair:
    """A photograph, its mask or None, and its result: names relative to the folders of each."""

    photograph: str
    mask: str | None
    output: str


@dataclass(frozen=True)
class Pairing:
    """What belongs together. photographs_without_mask, masks_without_photograph: names. refused: the names of
    photographs that cannot be filled, with the reasons."""

    pairs: list[Pair] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    photographs_without_mask: list[str] = field(default_factory=list)
    masks_without_photograph: list[str] = field(default_factory=list)


def pair(photographs: Iterable[str], masks: Iterable[str] | None) -> Pairing:
    """Finds the mask of each photograph: of the same name in the same sub-folder, whatever their extensions are.

    A photograph with several masks is refused, and so are those whose results would have one name. Several photographs
    may share a mask.

    Args:
        photographs: names; all that end otherwise than PICTURES are left out.
        masks: names, of which those that end in MASKS count; or None, where no photograph has a mask of its own.
    """
    pairing = Pairing()
    of_stem: dict[str, list[str]] = defaultdict(list)
    for mask in sorted(masks or ()):
        if _extension(mask) in MASKS:
            of_stem[_stem(mask)].append(mask)
    used = set()
    of_output: dict[str, list[Pair]] = defaultdict(list)
    for photograph in sorted(photographs):
        if _extension(photograph) not in PICTURES:
            continue
        found = of_stem[_stem(photograph)] if masks is not None else [None]
        used |= {_stem(photograph)}
        if not found:
            pairing.photographs_without_mask.append(photograph)
        elif len(found) > 1:
            names = ", ".join(map(str, found))
            pairing.refused[photograph] = f"expected one mask, got {len(found)}: {names}; leave one of them"
        else:
            output = str(PurePosixPath(photograph).with_name(result_name(PurePosixPath(photograph).name, "filled")))
            of_output[output].append(Pair(photograph, found[0], output))
    for output, pairs in of_output.items():
        if len(pairs) == 1:
            pairing.pairs.append(pairs[0])
            continue
        names = ", ".join(each.photograph for each in pairs)
        for each in pairs:
            pairing.refused[each.photograph] = f"{output} would be the result of {names}; give them different names"
    pairing.masks_without_photograph.extend(
        mask for stem, of_it in of_stem.items() if stem not in used for mask in of_it
    )
    return pairing


def files_in(folder: Path, without: Collection[Path] = ()) -> Iterator[str]:
    """The names of all files of a folder and its sub-folders.

    Left out are names that begin with a dot, and the files and folders ``without``. Links to files are followed, links
    to folders are not.

    Raises:
        OSError: the folder, or one in it, cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    left_out = {path.resolve() for path in without}
    for place, folders, files in os.walk(folder, onerror=refuse):
        here = Path(place)
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (here / name).resolve() not in left_out
        )
        for name in files:
            path = here / name
            if not name.startswith(".") and not (left_out and path.resolve() in left_out):
                yield path.relative_to(folder).as_posix()


def _stem(name: str) -> str:
    """The name without its extension."""
    return str(PurePosixPath(name).with_suffix(""))


def _extension(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
