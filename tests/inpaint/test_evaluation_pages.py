"""The report pages: well-formed, self-contained, and drawn from the numbers."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from inpaint.evaluation import page, plots
from inpaint.evaluation.pictures import TILES, cut_strip, draw_strip, webp

VOID = {"meta", "img", "br"}


class Checker(HTMLParser):
    """Collects what a page refers to, and refuses tags that do not close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe", "object")
        self.sources += [value or "" for name, value in attributes if name in ("src", "href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def check(html: str) -> Checker:
    """Every tag closes, and everything that is shown is inside the page."""
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert not checker.open
    assert all(source.startswith("data:image/") for source in checker.sources)
    assert "http" not in html and "url(" not in html and "@import" not in html
    return checker


def test_names_cannot_break_out_of_the_page() -> None:
    nasty = "<script>alert('&')</script>"
    html = page.page(
        nasty,
        [
            page.text(nasty),
            page.table([nasty], [[page.cell(nasty, nasty)]]),
            page.picture(b"", nasty, nasty),
            page.folded(nasty, [page.facts({nasty: {nasty: nasty}})]),
            plots.spread({nasty: plots.Row([1.0, 2.0], 1.5, (1.0, 2.0))}, nasty),
            plots.against_hole_share({nasty: [0.1]}, {nasty: [1.0]}, {(0, 0.1): plots.Row([], 1.0, None)}, nasty),
        ],
    )
    words = check(html).words
    assert words.count(nasty) >= 7


def numbers(svg: str, pattern: str) -> list[float]:
    return [float(number) for number in re.findall(pattern, svg)]


def test_spread_shows_every_value_in_its_place() -> None:
    values = [2.0, 3.0, 7.0, float("inf")]
    svg = plots.spread({"a": plots.Row(values, 4.0, (3.0, 5.0)), "b": plots.Row([5.0], 5.0, None)}, "l1")
    root = ElementTree.fromstring(svg)
    groups = [[float(dot.attrib["cx"]) for dot in group] for group in root.findall("g")]
    assert [len(group) for group in groups] == [3, 1]
    a, b, c = groups[0]
    assert (c - a) / (b - a) == pytest.approx(5, rel=0.01)
    (diamond, _) = numbers(svg, r'd="M([\d.]+) [\d.]+l5')
    assert (diamond - a) / (b - a) == pytest.approx(2, rel=0.01)
    assert numbers(svg, r'H([\d.]+)" stroke="#111" stroke-width="2"') == [pytest.approx(a + 3 * (b - a), abs=0.2)]
    assert [text.text for text in root.findall("text") if text.text in ("2", "4", "6")] == ["2", "4", "6"]


def test_spread_of_differences_keeps_zero_in_view() -> None:
    svg = plots.spread({"a": plots.Row([-3.0, -2.0], -2.5, None)}, "difference", zero=True)
    (zero,) = numbers(svg, r'M([\d.]+) \d+v\d+" stroke="#444"')
    assert max(numbers(svg, r'cx="([\d.]+)"')) < zero <= 560


def test_there_is_room_for_long_names() -> None:
    names = ("short", "neural inpainting, paper form", "contextual attention")
    svg = plots.spread({name: plots.Row([1.0, 2.0], 1.5, None) for name in names}, "x")
    ends = numbers(svg, r'<text x="(\d+)" y="\d+" text-anchor="end">')
    assert len(ends) == 3 and min(ends) >= plots.CHARACTER * 18  # longer ones are shortened to 18 characters
    assert min(numbers(svg, r'cx="([\d.]+)"')) > max(ends)


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [1e-12, 2e-12], [-1e9, 1e9], [float("inf")], []])
def test_axes_of_all_ranges(values: list[float]) -> None:
    ElementTree.fromstring(plots.spread({"a": plots.Row(values, float("nan"), None)}, "x"))
    shares = {"a": [0.3] * len(values)}
    root = ElementTree.fromstring(plots.against_hole_share(shares, {"a": values}, {}, "x"))
    dots = [dot for group in root.findall("g") for dot in group]
    assert all(0 <= float(dot.attrib["cy"]) <= 320 for dot in dots)


def test_at_most_so_many_dots() -> None:
    svg = plots.spread({"a": plots.Row([float(number) for number in range(5000)], 2499.5, None)}, "x")
    assert 250 < svg.count("<circle") <= plots.MOST_DOTS


def test_strip_shows_what_its_parts_are_called() -> None:
    truth, result = Image.new("RGB", (300, 150), (100, 50, 0)), Image.new("RGB", (300, 150), (110, 50, 200))
    hole = Image.new("L", truth.size)
    hole.paste(255, (100, 50, 200, 100))
    result.paste(truth, (0, 0), hole.point(lambda value: 255 - value))
    strip = draw_strip(truth, hole, result)
    size = (strip.width + 6) // 5 - 6, strip.height
    assert size == (224, 112)
    tiles = {name: strip.crop((number * 230, 0, number * 230 + 224, 112)) for number, name in enumerate(TILES)}
    inside, outside = (112, 56), (20, 20)
    seen = {name: (tile.getpixel(inside), tile.getpixel(outside)) for name, tile in tiles.items()}
    assert seen == {
        "input": ((128, 128, 128), (100, 50, 0)),
        "mask": ((255, 255, 255), (0, 0, 0)),
        "result": ((110, 50, 200), (100, 50, 0)),
        "truth": ((100, 50, 0), (100, 50, 0)),
        "difference x3": ((30, 0, 255), (0, 0, 0)),
    }


@pytest.mark.parametrize("size", [(31, 31), (40, 2000), (2000, 40), (513, 511)])
def test_strips_are_cut_where_they_were_joined(size: tuple[int, int], tmp_path) -> None:
    colours = [(250, 0, 0), (0, 250, 0)]
    strip = draw_strip(
        Image.new("RGB", size, colours[0]), Image.new("L", size, 255), Image.new("RGB", size, colours[1])
    )
    (tmp_path / "strip.webp").write_bytes(webp(strip))
    tiles = cut_strip(tmp_path / "strip.webp")
    assert list(tiles) == list(TILES) and len({tile.size for tile in tiles.values()}) == 1
    for name, colour in (("truth", colours[0]), ("result", colours[1])):
        assert np.abs(np.asarray(tiles[name], dtype=int) - colour).max() < 100
