"""Where results go: names that are given, names that follow from the photograph's, and standard output."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from inpaint.errors import InpaintError
from inpaint.result_name import result_name

STANDARD = Path("-")  # standard input or output


@dataclass(frozen=True)
class Place:
    """Where one result goes: the filled photograph, the picture that explains it, and the folder of its stages.

    variant: counted from 1; None where there is only one.
    """

    photograph: Path
    variant: int | None
    output: Path
    explanation: Path | None
    stages: Path | None


def places(
    photographs: Sequence[Path], *, variants: int, output: Path | None, explain: Path | None, save_stages: Path | None
) -> list[Place]:
    """The places of all results, photograph by photograph.

    Raises:
        click.UsageError: one name for several results.
        InpaintError: two results would have one name.
    """
    found = []
    for photograph in photographs:
        for variant in range(1, variants + 1) if variants > 1 else [None]:
            stages = save_stages
            if stages is not None and len(photographs) > 1:
                stages /= photograph.stem
            if stages is not None and variant is not None:
                stages /= f"variant{variant}"
            found.append(
                Place(
                    photograph,
                    variant,
                    _path(output, photograph, variant, len(photographs), "filled", None),
                    explain and _path(explain, photograph, variant, len(photographs), "explained", ".png"),
                    stages,
                )
            )
    _check_different(found)
    return found


def default_path(photograph: Path, does: str, extension: str | None = None) -> Path:
    """Next to a photograph, what was done to it added to its name; of a format that can be written."""
    if photograph == STANDARD:
        return Path(f"{does}{extension or '.png'}")
    return photograph.with_name(result_name(photograph.name, does, extension))


def _path(
    given: Path | None, photograph: Path, variant: int | None, count: int, does: str, extension: str | None
) -> Path:
    if given == STANDARD or given is None and photograph == STANDARD:
        if count > 1 or variant is not None:
            raise click.UsageError("Standard output, -, takes one picture: give a file or a folder with -o.")
        return STANDARD
    if given is None:
        path = default_path(photograph, does, extension)
    elif given.is_dir():
        path = given / default_path(photograph, does, extension).name
    elif count > 1:
        raise click.UsageError(
            f"{given} is one file for {count} photographs: give a folder that exists; if one of them is the mask, "
            "give it with --mask."
        )
    else:
        path = given
    return path if variant is None else path.with_name(f"{path.stem}_{variant}{path.suffix}")


def _check_different(found: Sequence[Place]) -> None:
    paths = [path for place in found for path in (place.output, place.explanation) if path is not None]
    resolved = [path if path == STANDARD else path.resolve() for path in paths]
    for path, place in zip(paths, resolved, strict=True):
        if resolved.count(place) > 1:
            raise InpaintError(f"{path} would be written twice; give the photographs different names, or other outputs")


def is_terminal() -> bool:
    """Whether standard output is one."""
    return sys.stdout.isatty()


def refuse_terminal() -> None:
    """InpaintError where standard output is a terminal."""
    if is_terminal():
        raise InpaintError("standard output is a terminal, and a picture would go there; give a file with -o")


def refuse_overwriting(
    output: Path, photographs: Sequence[Path], others: Sequence[tuple[Path, str]], *, allowed: bool
) -> None:
    """InpaintError where an output is a photograph, unless that is allowed, or one of the other inputs, by name."""

    def is_output(path: Path) -> bool:
        return path.exists() and output.exists() and output.samefile(path)

    for path, called in others:
        if is_output(path):
            raise InpaintError(f"{output} is the {called} itself; choose another name for the output")
    if not allowed and any(map(is_output, photographs)):
        raise InpaintError(
            f"{output} is the input photograph itself; choose another name, or allow it with --overwrite"
        )
