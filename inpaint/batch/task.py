"""One photograph of many, as data: bytes in, bytes out. Where the bytes come from and go to is the caller's business.

The steps are apart, so that each can run where it is cheap: ``key`` says whether the photograph has to be filled at
all, ``prepare`` decodes and checks it, ``inpaint.Inpainter`` fills it, ``encode`` makes the file.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from inpaint import weights
from inpaint.errors import InpaintError
from inpaint.marking import Marking
from inpaint.photo import FORMAT_OF_EXTENSION, MAX_MEGAPIXELS, Photo, check_output, save

if TYPE_CHECKING:
    from inpaint.work import Filled, Job


class Fills(Protocol):
    """An ``Inpainter``, or what stands for one."""

    def fill(self, job: Job) -> Filled: ...


@dataclass(frozen=True)
class File:
    """A file's name, which stands in messages and gives its format, and its content."""

    name: str
    content: bytes = field(repr=False)

    def open(self) -> io.BytesIO:
        return _named(self.name, self.content)


@dataclass(frozen=True)
class Options:
    """How every photograph of a run is filled. It can be pickled and sent to other machines.

    marking: what marks the holes besides the masks, and how these are read. source, exclude: masks of what is copied
    and of what is not, the same for all photographs. scales, feather, page, max_megapixels: as for
    ``inpaint.work.prepare``. weights, precision: as for ``inpaint.load``. max_memory: bytes, or None for the automatic
    choice.
    """

    marking: Marking = field(default_factory=Marking)
    source: File | None = None
    exclude: File | None = None
    scales: tuple[int, ...] | None = None
    feather: int = 0
    page: int = 1
    max_megapixels: float = MAX_MEGAPIXELS
    weights: str = "default"
    precision: str = "auto"
    max_memory: float | None = None

    def digest(self) -> bytes:
        """SHA-256 of all of them that a result depends on; of files what they hold.

        Raises:
            InpaintError: there are no such weights.
        """
        facts = asdict(replace(self, source=None, exclude=None))
        facts["weights"] = weights.sha256(weights.resolve(self.weights))
        facts["masks"] = [each and _digest(each.content).hex() for each in (self.source, self.exclude)]
        del facts["max_megapixels"]
        return _digest(json.dumps(facts, sort_keys=True).encode())


@dataclass(frozen=True)
class Given:
    """What belongs to one photograph: the file, its mask, and the name of its result, which gives the format."""

    photograph: File
    mask: File | None
    output: str


def key(given: Given, digest: bytes) -> str:
    """What the result depends on, as SHA-256 in hexadecimal: photograph, mask, format, and options.

    digest: of the options (``Options.digest``).
    """
    parts = [
        _digest(given.photograph.content),
        b"" if given.mask is None else _digest(given.mask.content),
        b"" if given.mask is None else PurePosixPath(given.mask.name).suffix.lower().encode(),
        PurePosixPath(given.output).suffix.lower().encode(),
        digest,
    ]
    return _digest(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).hex()


def prepare(given: Given, options: Options) -> Job:
    """Decodes a photograph and its mask, and makes all checks, that of the result's format included.

    Raises:
        InpaintError: anything that keeps the photograph from being filled.
    """
    job = options.marking.prepare(
        given.photograph.open(),
        None if given.mask is None else given.mask.open,
        source=options.source and options.source.open(),
        exclude=options.exclude and options.exclude.open(),
        scales=options.scales,
        feather=options.feather,
        page=options.page,
        max_megapixels=options.max_megapixels,
    )
    losses = check_output(_named(given.output), cast("Photo", job.picture), file_format=_format_of(given.output))
    return replace(job, notes=(*job.notes, *losses))


def encode(filled: Filled, output: str) -> bytes:
    """The file of a result, in the format that its name ends in, with the photograph's metadata.

    Raises:
        InpaintError: the format cannot hold it.
    """
    stream = _named(output)
    save(stream, filled.picture, file_format=_format_of(output))
    return stream.getvalue()


class Result(NamedTuple):
    """The content of the result's file, and notes for the user."""

    content: bytes
    notes: tuple[str, ...]


def fill(given: Given, options: Options, inpainter: Fills) -> Result:
    """All steps of one photograph: the bytes that ``inpaint fill`` would write.

    Raises:
        InpaintError, MemoryError, RuntimeError: see :func:`reason`, which makes a message of whatever is raised.
    """
    filled = inpainter.fill(prepare(given, options))
    return Result(encode(filled, given.output), filled.notes)


def reason(error: BaseException) -> str:
    """Why a photograph was not filled, in one line."""
    if isinstance(error, InpaintError):
        text = str(error)
    elif isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error).lower()):
        text = "not enough memory: use smaller --scales, fewer --jobs, or a smaller picture"
    elif isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = f"unexpected {type(error).__name__}: {error}"
    return " ".join(text.split())


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _format_of(name: str) -> str:
    return FORMAT_OF_EXTENSION[PurePosixPath(name).suffix.lower()]


def _named(name: str, content: bytes = b"") -> io.BytesIO:
    """A stream that messages call by a name."""
    stream = io.BytesIO(content)
    stream.name = name
    return stream
