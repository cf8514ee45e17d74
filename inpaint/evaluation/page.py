"""Parts of a self-contained HTML page: nothing is loaded from elsewhere, pictures are data URIs."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from inpaint.evaluation.measurement import QUANTITIES
from inpaint.evaluation.report import written

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; max-width: 1180px; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { margin: 2.4rem 0 .6rem; font-size: 1.2rem; }
h1, h2, h3 { overflow-wrap: anywhere; } h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p, dd { max-width: 52rem; } .note { color: #555; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top; }
th { background: #f5f5f5; font-weight: 600; white-space: nowrap; } th:first-child, td:first-child { text-align: left; }
td small { display: block; color: #666; white-space: nowrap; } td.best { font-weight: 700; }
td.best small { font-weight: 400; }
.plots { display: flex; flex-wrap: wrap; align-items: center; gap: 1rem 1.5rem; margin-top: 1rem; }
svg { max-width: 100%; height: auto; }
figure { margin: 0 0 1rem; } figcaption { font-size: .85rem; color: #333; overflow-wrap: anywhere; }
img { display: block; max-width: 100%; height: auto; }
.row { display: flex; gap: 6px; margin-bottom: .3rem; } .row figure { flex: 0 1 224px; margin: 0; min-width: 0; }
.row.many { overflow-x: auto; } .row.many figure { flex-shrink: 0; flex-basis: 160px; }
.photo { margin: .9rem 0; } .photo > p { margin: 0 0 .2rem; font-size: .9rem; overflow-wrap: anywhere; }
summary { cursor: pointer; font-weight: 600; padding: .35rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; } dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; } code { font-size: .9em; }
@media print { details > summary { display: none; } }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """A whole document; ``title`` is text, ``parts`` are HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def text(content: str, *, note: bool = False) -> str:
    """A paragraph."""
    return f"<p{' class=note' if note else ''}>{escape(content)}</p>"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """``headings`` are text, ``rows`` hold whole cells as :func:`cell` makes them."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def cell(content: str, *below: str, best: bool = False) -> str:
    """A cell with text, and more lines in small letters below it."""
    small = "".join(f"<small>{escape(line)}</small>" for line in below if line)
    return f"<td{' class=best' if best else ''}>{escape(content)}{small}</td>"


def mean_cell(means: Mapping[str, Any], name: str, *, best: bool = False) -> str:
    """A mean with its interval below it."""
    form = QUANTITIES[name].form
    return cell(written(means.get(name), form), bounds(means["intervals"].get(name), form), best=best)


def bounds(interval: Sequence[float] | None, form: str) -> str:
    """An interval in words, or nothing."""
    return "" if interval is None else f"{form.format(interval[0])} to {form.format(interval[1])}"


def heading(name: str) -> str:
    """What a quantity is called, with an arrow to where it is better."""
    quantity = QUANTITIES[name]
    return quantity.heading + {-1: " ↓", 0: "", 1: " ↑"}[quantity.better]


def picture(data: bytes, alternative: str, *caption: str) -> str:
    """A WebP file as an embedded picture, with lines of text below it."""
    source = f"data:image/webp;base64,{base64.b64encode(data).decode('ascii')}"
    below = f"<figcaption>{'<br>'.join(map(escape, caption))}</figcaption>" if caption else ""
    return f'<figure><img src="{source}" alt="{escape(alternative)}">{below}</figure>'


def folded(heading: str, parts: Sequence[str], *, unfolded: bool = False) -> str:
    """Parts under a heading that opens and closes them."""
    body = "\n".join(parts)
    return f"<details{' open' if unfolded else ''}><summary>{escape(heading)}</summary>\n{body}\n</details>"


def facts(values: Mapping[str, Any]) -> str:
    """Names with what they are; nested mappings become one line."""
    rows = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(_line(value))}</dd>" for name, value in values.items())
    return f"<dl>\n{rows}\n</dl>"


def _line(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_line(item)}" for name, item in value.items())
    return "none" if value is None else str(value)
