"""Evaluations of several methods side by side: Table 1 of Song et al. (2018) in form, and paired comparisons.

The first method is compared with each of the others, photograph by photograph: mean difference with a bootstrap
interval, and how often it is better, with the exact sign test. The p-values are not corrected for their number.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inpaint.errors import InpaintError
from inpaint.evaluation import report
from inpaint.evaluation.comparison_page import comparison_page
from inpaint.evaluation.measurement import MEASURED, QUANTITIES, Measurement, column, means, read_csv
from inpaint.evaluation.protocol import CONVENTIONS, make_folder, now
from inpaint.evaluation.uncertainty import LEVEL, RESAMPLES, bootstrap_intervals, sign_test

COMPARED = tuple(name for name in MEASURED if QUANTITIES[name].better)
FACTS = ("method", "method_sha256", "date", "command", "machine", "versions", "lpips_weights", "fid_weights")


@dataclass(frozen=True)
class Comparison:
    """What ``comparison.json`` holds.

    ``summary["kinds"][kind]`` has ``methods`` (means with intervals by name), and ``against`` (for each method but the
    first, for each quantity: ``difference`` first minus other, its ``interval``, ``wins`` and ``losses`` of the first,
    ``ties``, ``win_rate`` without the ties, and ``p``).
    """

    summary: dict[str, Any]

    @property
    def table(self) -> str:
        """Markdown: for each kind of hole the means, one row per method, then the paired comparisons."""
        return "\n".join(_tables(kind, found) for kind, found in self.summary["kinds"].items())


@dataclass(frozen=True)
class _Report:
    folder: Path
    summary: dict[str, Any]
    rows: dict[tuple[str, str], Measurement]  # by kind and name of the photograph


def compare(
    folders: Mapping[str, str | os.PathLike[str]],
    out_dir: str | os.PathLike[str],
    *,
    seed: int = 0,
    progress: bool = True,
) -> Comparison:
    """Compare evaluations of the same photographs under the same masks, and write what came out.

    Args:
        folders: name of each method -> the folder that :func:`inpaint.evaluation.evaluate` wrote; at least two. The
            first is compared with each of the others.
        out_dir: made if missing. Receives ``report.html``, ``comparison.json`` and ``table.md``.
        seed: of the bootstrap.
        progress: show a progress bar on standard error (needs tqdm).

    Raises:
        InpaintError: before anything is written, if a folder is not one of an evaluation, or if photographs, masks,
            kinds of holes or the weights of LPIPS or FID differ.
    """
    if len(folders) < 2:
        raise InpaintError(f"expected at least two evaluations to compare, got {len(folders)}; name another folder")
    reports = {name: _read(Path(folder)) for name, folder in folders.items()}
    for name in reports:
        _check_same(next(iter(reports)), name, reports)
    out = Path(out_dir)
    for name, folder in folders.items():
        if out.resolve() == Path(folder).resolve():
            raise InpaintError(f"expected a folder of its own for the comparison, got that of {name}; choose another")

    first = next(iter(reports.values()))
    summary = {
        "methods": {name: {"folder": str(folders[name]), **_facts(found)} for name, found in reports.items()},
        "date": now(),
        "command": shlex.join(sys.argv),
        "images": first.summary["images"],
        "kinds": {kind: _compare_kind(kind, reports, seed) for kind in first.summary["kinds"]},
        "notes": _notes(reports),
        "conventions": {
            **CONVENTIONS,
            "intervals": f"{LEVEL:.0%} percentile bootstrap over photographs, {RESAMPLES} draws, seed {seed}",
            "against": "the first method minus the other, photograph by photograph; the sign test is exact and "
            "two-sided, without ties, and not corrected for the number of comparisons",
        },
    }
    make_folder(out)
    comparison = Comparison(summary)
    rows = {name: list(found.rows.values()) for name, found in reports.items()}
    strips = {name: found.folder / "strips" for name, found in reports.items()}
    html = comparison_page(summary, rows, strips, progress=progress)
    report.write_json(out / "comparison.json", summary)
    report.write_text(out / "table.md", comparison.table)
    report.write_text(out / "report.html", html)
    return comparison


def _read(folder: Path) -> _Report:
    path = folder / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        kinds, _ = summary["kinds"], summary["images"]
    except OSError as error:
        raise InpaintError(
            f"expected a folder of `inpaint evaluate`, cannot read {path} ({error.strerror}); name such a folder"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InpaintError(
            f"expected the summary of an evaluation in {path}, got something else; run `inpaint evaluate` again"
        ) from error
    rows = {(row.kind, row.name): row for row in read_csv(folder / "per_image.csv")}
    if {kind for kind, _ in rows} != set(kinds):
        raise InpaintError(f"expected summary.json and per_image.csv of one evaluation in {folder}; evaluate again")
    for kind, name in rows:
        strip = folder / "strips" / kind / f"{name}.webp"
        if not strip.is_file():
            raise InpaintError(f"expected the picture {strip}, there is none; run `inpaint evaluate` again")
    return _Report(folder, summary, rows)


def _check_same(first: str, other: str, reports: Mapping[str, _Report]) -> None:
    """Raises InpaintError unless both evaluations measured the same things with the same weights."""
    ours, theirs = reports[first], reports[other]
    advice = "give all evaluations the same photographs, masks, --kinds and --limit"
    apart = sorted(ours.rows.keys() ^ theirs.rows.keys())
    if apart:
        raise InpaintError(
            f"expected evaluations of the same photographs and masks, {len(apart)} are in only one of {first} and "
            f"{other}, such as {'/'.join(apart[0])}; {advice}"
        )
    for key, row in ours.rows.items():
        for what in ("photograph", "mask"):
            if getattr(row, f"{what}_sha256") != getattr(theirs.rows[key], f"{what}_sha256"):
                raise InpaintError(
                    f"expected evaluations of the same photographs and masks, the {what} of {'/'.join(key)} has other "
                    f"pixels in {first} than in {other}; {advice}"
                )
    for metric in ("lpips", "fid"):
        used = [found.summary.get(f"{metric}_weights") for found in (ours, theirs)]
        if len({weights["sha256"] for weights in used if weights is not None}) > 1:
            raise InpaintError(
                f"expected {metric.upper()} by the same weights, {first} and {other} have different ones; evaluate one "
                "of them again"
            )


def _compare_kind(kind: str, reports: Mapping[str, _Report], seed: int) -> dict[str, Any]:
    # In the first report's order, so that rows of different methods belong together.
    order = [key for key in next(iter(reports.values())).rows if key[0] == kind]
    rows = {name: [found.rows[key] for key in order] for name, found in reports.items()}
    methods = {name: means(own, seed=seed) for name, own in rows.items()}
    for name, found in reports.items():
        distance = found.summary["kinds"][kind].get("fid")
        if distance is not None:
            methods[name]["fid"] = distance
    first, *others = rows
    against = {other: _paired(rows[first], rows[other], seed) for other in others}
    return {"images": len(order), "methods": methods, "against": against}


def _paired(ours: Sequence[Measurement], theirs: Sequence[Measurement], seed: int) -> dict[str, dict[str, Any]]:
    found = {}
    for name in COMPARED:
        first, second = column(ours, name), column(theirs, name)
        if first is None or second is None:
            continue
        better = QUANTITIES[name].better
        wins = sum(better * a > better * b for a, b in zip(first, second, strict=True))
        ties = sum(a == b for a, b in zip(first, second, strict=True))
        losses = len(first) - wins - ties
        # Two infinite PSNRs are a tie; their difference is not a number, and so then is the mean.
        differences = [a - b for a, b in zip(first, second, strict=True)]
        (interval,) = bootstrap_intervals(np.array(differences)[:, None], [row.name for row in ours], seed=seed)
        found[name] = {
            "difference": statistics.fmean(differences),
            "interval": interval,
            "wins": wins,
            "losses": losses,
            "ties": ties,
            "win_rate": wins / (wins + losses) if wins + losses else None,
            "p": sign_test(wins, losses),
        }
    return found


def _facts(found: _Report) -> dict[str, Any]:
    return {name: found.summary[name] for name in FACTS if found.summary.get(name) is not None}


def _notes(reports: Mapping[str, _Report]) -> list[str]:
    timed = {
        json.dumps(found.summary.get("machine"), sort_keys=True)
        for found in reports.values()
        if any(row.seconds is not None for row in found.rows.values())
    }
    different = "The methods were timed on different machines or numbers of threads: their seconds cannot be compared."
    notes = [different] if len(timed) > 1 else []
    return notes + list(dict.fromkeys(note for found in reports.values() for note in found.summary.get("notes", [])))


def _tables(kind: str, found: Mapping[str, Any]) -> str:
    methods = found["methods"]
    columns = report.measured(report.COMPARED_MEANS, methods.values())
    means_rows = [[name, *report.mean_cells(own, columns)] for name, own in methods.items()]
    first = next(iter(methods))
    paired_rows = [
        [
            other,
            QUANTITIES[name].heading,
            report.written(pair["difference"], report.signed(name), pair["interval"]),
            f"{pair['wins']} / {pair['losses']} / {pair['ties']}",
            report.written(pair["win_rate"], "{:.0%}"),
            report.written(pair["p"], "{:.2g}"),
        ]
        for other, pairs in found["against"].items()
        for name, pair in pairs.items()
    ]
    return (
        f"## {kind}, {found['images']} photographs\n\n"
        + report.markdown_table(["method", *(QUANTITIES[name].heading for name in columns)], means_rows)
        + f"\n{first} against the others:\n\n"
        + report.markdown_table(
            ["other", "quantity", "mean difference", "wins / losses / ties", "win rate", "p"], paired_rows
        )
    )
