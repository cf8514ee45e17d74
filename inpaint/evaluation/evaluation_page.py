"""``report.html`` of one evaluation: means, plots, worst and best, contact sheets, and how it was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from inpaint.evaluation import page, plots
from inpaint.evaluation.measurement import QUANTITIES, Measurement, column
from inpaint.evaluation.pictures import DIFFERENCE_GAIN, TILES
from inpaint.evaluation.report import measured

COLUMNS = ("hole_l1", "l1", "hole_psnr", "psnr", "hole_ssim", "ssim", "lpips", "fid", "seconds")
PLOTTED = ("hole_l1", "ssim", "lpips")
EXTREMES = 3  # photographs shown as worst, and as best, of each kind
MOST_SHOWN = 50  # photographs of each kind on the page; the folder holds them all


def evaluation_page(summary: Mapping[str, Any], rows: Sequence[Measurement], strips: Path) -> str:
    """The page as HTML. ``strips`` holds ``<kind>/<name>.webp`` for every row."""
    kinds = {kind: [row for row in rows if row.kind == kind] for kind in summary["kinds"]}
    judged = "lpips" if column(rows, "lpips") is not None else "hole_l1"
    parts = [
        page.text(f"{summary['images']} photographs, {len(rows)} holes. {summary['date']}."),
        "<h2>Means</h2>",
        _means_table("holes", summary["kinds"]),
        page.text(f"Below each mean: {summary['conventions']['intervals']}.", note=True),
        *(page.text(note) for note in summary["notes"]),
        "<h2>By share of the image that is hole</h2>",
        _means_table("hole share", summary["hole_shares"]),
        "<h2>Spread</h2>",
        _plots(summary, rows, kinds),
        page.text("A dot is a photograph. Diamonds and black lines are means, black bars their intervals.", note=True),
        f"<h2>Worst and best by {escape(QUANTITIES[judged].heading)}</h2>",
        page.text(_legend(), note=True),
    ]
    for kind, own in kinds.items():
        best_first = sorted(own, key=lambda row: getattr(row, judged))
        count = min(EXTREMES, len(own) // 2)
        parts.append(f"<h3>{escape(kind)}: worst</h3>")
        parts += [_photograph(row, strips) for row in best_first[::-1][: max(count, 1)]]
        if count:
            parts.append(f"<h3>{escape(kind)}: best</h3>")
            parts += [_photograph(row, strips) for row in best_first[:count]]
    parts += ["<h2>Contact sheets</h2>", page.text(_legend(), note=True)]
    for kind, own in kinds.items():
        heading = f"{kind}: {len(own)} photographs"
        if len(own) > MOST_SHOWN:
            heading += f", the first {MOST_SHOWN} of them; all are in the folder sheets"
        parts.append(page.folded(heading, [_photograph(row, strips) for row in own[:MOST_SHOWN]]))
    parts += ["<h2>How it was measured</h2>", page.facts(_facts(summary))]
    return page.page(f"{summary['method']}: evaluation", parts)


def caption(row: Measurement) -> str:
    """What was measured on one photograph, in a line."""
    perceptual = "" if row.lpips is None else f", LPIPS {row.lpips:.3f}"
    return f"{row.name[:60]}: hole L1 {row.hole_l1:.1f} %, SSIM {row.ssim:.3f}{perceptual}"


def _means_table(heading: str, groups: Mapping[str, Mapping[str, Any]]) -> str:
    columns = measured(COLUMNS, groups.values())
    rows = [
        [page.cell(group), page.cell(str(means["images"])), *(page.mean_cell(means, name) for name in columns)]
        for group, means in groups.items()
    ]
    return page.table([heading, "images", *(page.heading(name) for name in columns)], rows)


def _plots(summary: Mapping[str, Any], rows: Sequence[Measurement], kinds: Mapping[str, list[Measurement]]) -> str:
    drawn = []
    for name in PLOTTED:
        if column(rows, name) is None:
            continue
        heading = QUANTITIES[name].heading
        values = {kind: column(own, name) or [] for kind, own in kinds.items()}
        spreads = {kind: _row(summary["kinds"][kind], name, values[kind], colour) for colour, kind in enumerate(kinds)}
        drawn.append(plots.spread(spreads, heading))
        shares = {kind: [row.hole_share for row in own] for kind, own in kinds.items()}
        bins = {(means["from"], means["to"]): _row(means, name, []) for means in summary["hole_shares"].values()}
        drawn.append(plots.against_hole_share(shares, values, bins, heading))
    return f'<div class="plots">{"".join(drawn)}</div>'


def _row(means: Mapping[str, Any], name: str, values: Sequence[float], colour: int = 0) -> plots.Row:
    mean = means[name]
    return plots.Row(values, math.nan if mean is None else mean, means["intervals"][name], colour)


def _photograph(row: Measurement, strips: Path) -> str:
    data = (strips / row.kind / f"{row.name}.webp").read_bytes()
    share = f", hole {row.hole_share:.0%} of the image"
    return f'<div class="photo">{page.text(caption(row) + share)}{page.picture(data, f"{row.name}, {row.kind}")}</div>'


def _legend() -> str:
    return f"From left to right: {', '.join(TILES[:-1])}, |result − truth| in the hole times {DIFFERENCE_GAIN}."


def _facts(summary: Mapping[str, Any]) -> dict[str, Any]:
    names = (
        "command",
        "method",
        "method_sha256",
        "images_dir",
        "masks_dir",
        "machine",
        "versions",
        "lpips_weights",
        "fid_weights",
    )
    chosen = {name: summary[name] for name in names if name in summary} | summary["conventions"]
    return {name.replace("_", " "): value for name, value in chosen.items()}
