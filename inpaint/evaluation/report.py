"""The files of an evaluation: Markdown tables, CSV and JSON, each written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from inpaint.codec import reason
from inpaint.errors import InpaintError
from inpaint.evaluation.measurement import QUANTITIES
from inpaint.photo import write_file

COMPARED_MEANS = ("hole_l1", "l1", "ssim", "lpips", "fid", "seconds")  # columns of a table of methods


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, all others to the right."""
    lines = ["| " + " | ".join(headings) + " |", "|---|" + "---:|" * (len(headings) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def mean_cells(means: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Means with their intervals, ``13.95 [13.10, 14.80]``; a dash stands for what was not measured."""
    return [written(means.get(name), QUANTITIES[name].form, means["intervals"].get(name)) for name in names]


def measured(names: Sequence[str], groups: Collection[Mapping[str, Any]]) -> list[str]:
    """Those of the quantities that at least one of the groups of means has."""
    return [name for name in names if any(means.get(name) is not None for means in groups)]


def signed(name: str) -> str:
    """The format of a difference of this quantity."""
    return QUANTITIES[name].form.replace("{:", "{:+")


def written(value: float | None, form: str, interval: Sequence[float] | None = None) -> str:
    """A number, and its interval if it has one."""
    if value is None or math.isnan(value):
        return "–"
    bounds = "" if interval is None else f" [{form.format(interval[0])}, {form.format(interval[1])}]"
    return form.format(value) + bounds


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows under the first one's keys; an empty field stands for what was not measured."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """JSON with null for NaN and infinity, which it cannot hold."""
    write_text(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, as :func:`write_bytes` does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raises InpaintError if it cannot be written."""
    try:
        write_file(path, content)
    except OSError as error:
        raise InpaintError(f"cannot write {path}: {reason(error)}; choose another folder") from error


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
