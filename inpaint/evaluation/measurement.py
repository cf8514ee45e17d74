"""What is measured on one completed photograph, and the means of it with their intervals."""

from __future__ import annotations

import csv
import dataclasses
import statistics
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inpaint.errors import InpaintError
from inpaint.evaluation.uncertainty import bootstrap_intervals

BIN = 10  # percent of the image; the width of a bin of hole shares


@dataclass(frozen=True)
class Measurement:
    """What was measured on one photograph with one mask. Seconds, L1 in percent, PSNR in dB; None = not measured.

    The digests are SHA-256 of the photograph's 8-bit pixels and of the hole: they tell whether two evaluations are of
    the same things, whatever the files are called.
    """

    kind: str
    name: str
    hole_share: float
    hole_l1: float
    l1: float
    hole_psnr: float
    psnr: float
    hole_ssim: float
    ssim: float
    lpips: float | None
    seconds: float | None
    photograph_sha256: str
    mask_sha256: str


@dataclass(frozen=True)
class Quantity:
    """How a quantity is called, written and judged: ``better`` is -1 if lower is, 1 if higher is, 0 if neither."""

    heading: str
    form: str
    better: int


QUANTITIES = {
    "hole_share": Quantity("hole share", "{:.3f}", 0),
    "hole_l1": Quantity("hole L1 %", "{:.2f}", -1),
    "l1": Quantity("L1 %", "{:.2f}", -1),
    "hole_psnr": Quantity("hole PSNR dB", "{:.2f}", 1),
    "psnr": Quantity("PSNR dB", "{:.2f}", 1),
    "hole_ssim": Quantity("hole SSIM", "{:.3f}", 1),
    "ssim": Quantity("SSIM", "{:.3f}", 1),
    "lpips": Quantity("LPIPS", "{:.3f}", -1),
    "seconds": Quantity("seconds", "{:.2f}", -1),
    "fid": Quantity("FID", "{:.2f}", -1),
}
MEASURED = tuple(name for name in QUANTITIES if name != "fid")  # on each photograph; FID is of a whole set


def means(rows: Sequence[Measurement], *, seed: int = 0) -> dict[str, Any]:
    """Mean of every quantity over at least one row, None where any row lacks it; ``intervals`` holds [low, high].

    ``images`` counts the rows. See :func:`bootstrap_intervals` for the intervals and for when there is none.
    """
    found: dict[str, Any] = {"images": len(rows)}
    columns: dict[str, list[float]] = {}
    for name in MEASURED:
        values = column(rows, name)
        found[name] = None if values is None else statistics.fmean(values)
        if values is not None:
            columns[name] = values
    intervals = bootstrap_intervals(np.array(list(columns.values())).T, [row.name for row in rows], seed=seed)
    found["intervals"] = dict.fromkeys(MEASURED) | dict(zip(columns, intervals, strict=True))
    times = columns.get("seconds")
    if times is not None:
        found["seconds_median"] = statistics.median(times)
        found["seconds_p95"] = float(np.quantile(times, 0.95))
    return found


def column(rows: Sequence[Measurement], name: str) -> list[float] | None:
    """One quantity of all rows, or None if it was not measured on all of them."""
    values = [getattr(row, name) for row in rows]
    return None if None in values else values


def bins_of_hole_share(rows: Sequence[Measurement]) -> dict[tuple[int, int], list[Measurement]]:
    """Rows by the share of the image that is hole: (10, 20) has those of at least 10 % and less than 20 %.

    Bins without a row are left out. A bin may hold rows of every kind.
    """
    bins: dict[int, list[Measurement]] = {}
    for row in rows:
        bins.setdefault(int(100 * row.hole_share) // BIN, []).append(row)
    return {(BIN * number, BIN * (number + 1)): bins[number] for number in sorted(bins)}


def read_csv(path: Path) -> list[Measurement]:
    """The rows that an evaluation wrote. Raises InpaintError if the file is missing or lacks a column or a number."""
    wanted = typing.get_type_hints(Measurement)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
        return [Measurement(**{name: _parse(row[name], hint) for name, hint in wanted.items()}) for row in table]
    except OSError as error:
        raise InpaintError(
            f"cannot read {path}: {error.strerror}; name a folder written by `inpaint evaluate`"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise InpaintError(
            f"expected in {path} the columns {', '.join(field.name for field in dataclasses.fields(Measurement))}, "
            f"got a table that does not fit ({error}); run `inpaint evaluate` again"
        ) from error


def _parse(text: str | None, hint: Any) -> Any:
    if text is None:
        raise ValueError("a row is short")
    if hint is str:
        return text
    return None if text == "" and hint is not float else float(text)
