"""``report.html`` of a comparison: the methods' means and paired differences, and their results side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from inpaint.evaluation import page, plots
from inpaint.evaluation.measurement import QUANTITIES, Measurement, column
from inpaint.evaluation.pictures import cut_strip, webp
from inpaint.evaluation.progress import progress_bar
from inpaint.evaluation.report import COMPARED_MEANS, measured, signed, written

MOST_SHOWN = 50  # photographs of each kind on the page
PLOTTED = ("hole_l1", "ssim", "lpips")


def comparison_page(
    summary: Mapping[str, Any],
    rows: Mapping[str, Sequence[Measurement]],
    strips: Mapping[str, Path],
    *,
    progress: bool,
) -> str:
    """The page as HTML. ``rows`` and ``strips`` are by method; a folder of strips has ``<kind>/<name>.webp``."""
    by_key = {method: {(row.kind, row.name): row for row in own} for method, own in rows.items()}
    first, *others = rows
    kinds = {kind: [row.name for row in rows[first] if row.kind == kind][:MOST_SHOWN] for kind in summary["kinds"]}
    parts = [page.text(f"{summary['images']} photographs. {summary['date']}.")]
    parts += [page.text(note) for note in summary["notes"]]
    for kind, found in summary["kinds"].items():
        parts += [
            f"<h2>{escape(kind)}: {found['images']} photographs</h2>",
            _means_table(found["methods"]),
            page.text(f"Below each mean: {summary['conventions']['intervals']}. Bold: the best.", note=True),
            f"<h3>{escape(first)} minus {'the others' if len(others) > 1 else escape(others[0])}</h3>",
            _paired_table(found["against"]),
            page.text(
                f"Mean difference, its interval, on how many photographs {first} is better and how often that is of "
                "those without a tie, and p of the two-sided exact sign test (not corrected for many comparisons).",
                note=True,
            ),
            _plots(kind, first, rows, found),
        ]
    parts.append("<h2>Results side by side</h2>")
    with progress_bar(sum(map(len, kinds.values())), "compare", progress) as advance:
        for kind, names in kinds.items():
            shown = []
            for name in names:
                shown.append(_photograph((kind, name), by_key, strips))
                advance()
            count = summary["kinds"][kind]["images"]
            heading = f"{kind}: {'all' if len(names) == count else f'the first {len(names)} of'} {count} photographs"
            parts.append(page.folded(heading, shown, unfolded=kind == next(iter(kinds))))
    parts += ["<h2>How it was compared</h2>", page.facts({"command": summary["command"], **summary["conventions"]})]
    for method, facts in summary["methods"].items():
        parts += [f"<h3>{escape(method)}</h3>", page.facts(facts)]
    return page.page(f"{' · '.join(rows)}: comparison", parts)


def _means_table(methods: Mapping[str, Mapping[str, Any]]) -> str:
    columns = measured(COMPARED_MEANS, methods.values())
    best = {name: _best({method: own.get(name) for method, own in methods.items()}, name) for name in columns}
    rows = [
        [page.cell(method), *(page.mean_cell(own, name, best=method in best[name]) for name in columns)]
        for method, own in methods.items()
    ]
    return page.table(["method", *(page.heading(name) for name in columns)], rows)


def _best(values: Mapping[str, float | None], name: str) -> set[str]:
    """The methods whose value is the best of at least two, as far as it is written."""
    there = {method: value for method, value in values.items() if value is not None}
    if len(there) < 2:
        return set()
    form, better = QUANTITIES[name].form, QUANTITIES[name].better
    winner = form.format(max(there.values(), key=lambda value: better * value))
    return {method for method, value in there.items() if form.format(value) == winner}


def _paired_table(against: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    columns = [name for name in QUANTITIES if any(name in pairs for pairs in against.values())]
    rows = [
        [page.cell(other), *(_paired_cell(name, pairs.get(name)) for name in columns)]
        for other, pairs in against.items()
    ]
    return page.table(["minus", *(page.heading(name) for name in columns)], rows)


def _paired_cell(name: str, pair: Mapping[str, Any] | None) -> str:
    if pair is None:
        return page.cell(written(None, ""))
    form, trials = signed(name), pair["wins"] + pair["losses"]
    ties = f", {pair['ties']} ties" if pair["ties"] else ""
    rate = "" if pair["win_rate"] is None else f" ({pair['win_rate']:.0%})"
    return page.cell(
        written(pair["difference"], form),
        page.bounds(pair["interval"], form),
        f"{pair['wins']} of {trials}{rate}{ties}",
        f"p = {pair['p']:.2g}",
    )


def _plots(kind: str, first: str, rows: Mapping[str, Sequence[Measurement]], found: Mapping[str, Any]) -> str:
    drawn = []
    own = {method: [row for row in every if row.kind == kind] for method, every in rows.items()}
    colours = {method: colour for colour, method in enumerate(rows)}
    for name in PLOTTED:
        values = {method: column(kept, name) for method, kept in own.items()}
        there = {method: numbers for method, numbers in values.items() if numbers is not None}
        if not there:
            continue
        quantity = QUANTITIES[name]
        spreads = {}
        for method, numbers in there.items():
            means = found["methods"][method]
            spreads[method] = plots.Row(numbers, means[name], means["intervals"][name], colours[method])
        drawn.append(plots.spread(spreads, quantity.heading))
        differences = {}
        for other, pairs in found["against"].items():
            if name in pairs:
                apart = [a - b for a, b in zip(there[first], there[other], strict=True)]
                differences[other] = plots.Row(
                    apart, pairs[name]["difference"], pairs[name]["interval"], colours[other]
                )
        if differences:
            better = "lower" if quantity.better < 0 else "higher"
            label = f"{quantity.heading} of {first} minus the other's ({better} is better for {first})"
            drawn.append(plots.spread(differences, label, zero=True))
    return f'<div class="plots">{"".join(drawn)}</div>'


def _photograph(
    key: tuple[str, str],
    rows: Mapping[str, Mapping[tuple[str, str], Measurement]],
    strips: Mapping[str, Path],
) -> str:
    kind, name = key
    tiles = {method: cut_strip(folder / kind / f"{name}.webp") for method, folder in strips.items()}
    first = next(iter(tiles.values()))
    judged = "lpips" if all(own[key].lpips is not None for own in rows.values()) else "hole_l1"
    best = _best({method: getattr(own[key], judged) for method, own in rows.items()}, judged)
    figures = [page.picture(webp(first["input"]), "input", "input")]
    for method, pictures in tiles.items():
        row = rows[method][key]
        numbers = f"hole L1 {row.hole_l1:.1f} %" + ("" if row.lpips is None else f", LPIPS {row.lpips:.3f}")
        star = " ★" if method in best else ""
        figures.append(page.picture(webp(pictures["result"]), method, f"{method}{star}", numbers))
    figures.append(page.picture(webp(first["truth"]), "truth", "truth"))
    many = " many" if len(figures) > 5 else ""
    row_html = f'<div class="row{many}">{"".join(figures)}</div>'
    return f'<div class="photo">{page.text(f"{name} (★ best {QUANTITIES[judged].heading})")}{row_html}</div>'
