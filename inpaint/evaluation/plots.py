"""Plots as inline SVG, written from the numbers: how values spread over photographs and depend on the hole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from inpaint.evaluation.uncertainty import Interval

COLOURS = ("#1f77b4", "#d95f02", "#1b9e77", "#7b3294", "#c51b7d", "#8c6d31", "#525252", "#e6ab02")
MOST_DOTS = 500  # of a row; more would only slow the browser down
LEFT, RIGHT, TOP, BOTTOM, ROW = 130, 16, 8, 40, 34  # pixels; LEFT is more where a name needs it
CHARACTER = 8  # pixels, at a font size of 12, more than the mean of any name in any usual font


@dataclass(frozen=True)
class Row:
    """Values with their mean and its interval, where there is one; ``colour`` counts through ``COLOURS``."""

    values: Sequence[float]
    mean: float
    interval: Interval | None
    colour: int = 0


def spread(rows: Mapping[str, Row], label: str, *, width: int = 560, zero: bool = False) -> str:
    """One line of dots per name, a dot per photograph; the diamond is the mean and the bar its interval.

    Values that are not finite are left out. ``zero`` draws a line at 0 and keeps it in the picture.
    """
    drawn = {name: _every_so_many(sorted(filter(math.isfinite, row.values))) for name, row in rows.items()}
    everything = [value for values in drawn.values() for value in values] + ([0.0] if zero else [])
    left = max(LEFT, 16 + CHARACTER * max(map(len, map(_shortened, rows)), default=0))
    axis = _Axis.around(everything, left, width - RIGHT)
    height = TOP + ROW * len(rows) + BOTTOM
    parts = [_open(width, height, label), _horizontal_axis(axis, TOP + ROW * len(rows), label)]
    if zero:
        parts.append(f'<path d="M{axis(0):.1f} {TOP}v{ROW * len(rows)}" stroke="#444" stroke-dasharray="4 3"/>')
    for number, (name, row) in enumerate(rows.items()):
        middle, colour = TOP + ROW * (number + 0.5), COLOURS[row.colour % len(COLOURS)]
        parts.append(
            f'<text x="{left - 8}" y="{middle + 4:.0f}" text-anchor="end">{escape(_shortened(name))}'
            f"<title>{escape(name)}</title></text>"
        )
        # The golden ratio spreads neighbouring dots over the height of the line without any of them overlapping much.
        dots = "".join(
            f'<circle cx="{axis(value):.1f}" cy="{middle + 18 * (index * 0.618034 % 1 - 0.5):.1f}" r="2.5"/>'
            for index, value in enumerate(drawn[name])
        )
        parts.append(f'<g fill="{colour}" fill-opacity="0.35">{dots}</g>')
        parts.append(_mean_mark(axis, middle, row))
    return "".join([*parts, "</svg>"])


def against_hole_share(
    shares: Mapping[str, Sequence[float]],
    values: Mapping[str, Sequence[float]],
    bins: Mapping[tuple[float, float], Row],
    label: str,
    *,
    width: int = 560,
    height: int = 320,
) -> str:
    """A dot per photograph, coloured by kind of hole; for each bin (from, to) of shares its mean with its interval."""
    dots = {
        kind: _every_so_many([pair for pair in zip(shares[kind], values[kind], strict=True) if math.isfinite(pair[1])])
        for kind in shares
    }
    left, floor = 64, height - BOTTOM
    across = _Axis.around([0.0, *(100 * share for kind in dots for share, _ in dots[kind])], left, width - RIGHT)
    up = _Axis.around([value for kind in dots for _, value in dots[kind]], floor, TOP + 16)
    parts = [_open(width, height, label), _horizontal_axis(across, floor, "hole, % of the image", TOP + 16)]
    for tick in up.ticks():
        parts.append(f'<path d="M{left} {up(tick):.1f}H{width - RIGHT}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{left - 6}" y="{up(tick) + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    middle = (floor + TOP) / 2
    turned = f'transform="translate(14 {middle:.0f}) rotate(-90)"'
    parts.append(f'<text {turned} text-anchor="middle">{escape(label)}</text>')
    for number, (kind, points) in enumerate(dots.items()):
        colour = COLOURS[number % len(COLOURS)]
        circles = "".join(f'<circle cx="{across(100 * x):.1f}" cy="{up(y):.1f}" r="2.5"/>' for x, y in points)
        parts.append(f'<g fill="{colour}" fill-opacity="0.45">{circles}</g>')
        key = left + number * 90
        parts.append(f'<circle cx="{key + 5}" cy="{TOP}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{key + 14}" y="{TOP + 4}">{escape(_shortened(kind))}</text>')
    for (start, end), row in bins.items():
        if not math.isfinite(row.mean):
            continue
        x, y = across(50 * (start + end)), up(row.mean)
        if row.interval is not None:
            low, high = (up(bound) for bound in row.interval)
            parts.append(f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="#111" stroke-width="2"/>')
        parts.append(f'<path d="M{across(100 * start):.1f} {y:.1f}H{across(100 * end):.1f}" stroke="#111"/>')
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True)
class _Axis:
    """Maps values to pixels: ``low`` to ``start`` and ``high`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float) -> _Axis:
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        margin = 0.04 * (high - low) or abs(high) / 10 or 1.0
        return cls(low - margin, high + margin, start, end)

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """About five round values."""
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        return [step * count for count in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def _open(width: int, height: int, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(label)}" font-size="12" fill="#222" overflow="visible">'
    )


def _horizontal_axis(axis: _Axis, floor: float, label: str, ceiling: float = TOP) -> str:
    parts = []
    for tick in axis.ticks():
        x = axis(tick)
        parts.append(f'<path d="M{x:.1f} {ceiling}V{floor}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{x:.1f}" y="{floor + 16}" text-anchor="middle">{_number(tick)}</text>')
    middle = (axis.start + axis.end) / 2
    parts.append(f'<text x="{middle:.0f}" y="{floor + 33}" text-anchor="middle">{escape(label)}</text>')
    return "".join(parts)


def _mean_mark(axis: _Axis, y: float, row: Row) -> str:
    if not math.isfinite(row.mean):
        return ""
    bar = ""
    if row.interval is not None:
        low, high = (axis(bound) for bound in row.interval)
        bar = f'<path d="M{low:.1f} {y:.1f}H{high:.1f}" stroke="#111" stroke-width="2"/>'
    return f'{bar}<path d="M{axis(row.mean):.1f} {y - 6:.1f}l5 6l-5 6l-5 -6z" fill="#111"/>'


def _every_so_many(values: list) -> list:
    step = math.ceil(len(values) / MOST_DOTS) or 1
    return values[::step]


def _shortened(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"


def _number(value: float) -> str:
    return f"{value:.6g}".replace("-", "\N{MINUS SIGN}")
