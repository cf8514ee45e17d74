"""Means, bins of hole shares, and the table that evaluations are read back from."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint.errors import InpaintError
from inpaint.evaluation.measurement import MEASURED, Measurement, bins_of_hole_share, column, means, read_csv
from inpaint.evaluation.report import write_csv


def measurement(name: str, *, kind: str = "center", **values: float | None) -> Measurement:
    numbers: dict = dict.fromkeys(MEASURED, 1.0) | values
    return Measurement(kind=kind, name=name, photograph_sha256="a", mask_sha256="b", **numbers)


def test_means_of_what_was_measured_on_all() -> None:
    rows = [
        measurement("a", l1=1.0, psnr=math.inf, lpips=None, seconds=2.0),
        measurement("b", l1=4.0, seconds=4.0),
        measurement("c", l1=7.0, seconds=12.0),
    ]
    found = means(rows)
    assert found["images"] == 3 and found["l1"] == 4 and found["psnr"] == math.inf and found["lpips"] is None
    assert found["seconds_median"] == 4 and 4 < found["seconds_p95"] < 12
    assert found["intervals"]["l1"] == (1, 7)  # the extremes have a chance of 1/27 each
    assert found["intervals"]["psnr"] is None and found["intervals"]["lpips"] is None
    assert column(rows, "lpips") is None and column(rows, "l1") == [1, 4, 7]


@given(st.lists(st.integers(1, 99), min_size=1, max_size=30))
def test_every_row_is_in_the_bin_of_its_share(percentages: list[int]) -> None:
    rows = [measurement(str(number), hole_share=share / 100) for number, share in enumerate(percentages)]
    bins = bins_of_hole_share(rows)
    assert sorted(row.name for own in bins.values() for row in own) == sorted(row.name for row in rows)
    for (start, end), own in bins.items():
        assert own and end - start == 10
        assert all(start <= round(100 * row.hole_share) < end for row in own)


def test_table_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    rows = [
        measurement("dog, brown", l1=1 / 3, psnr=math.inf, lpips=None, seconds=None),
        measurement("Köln", kind="thin", l1=2e-17),
    ]
    write_csv(tmp_path / "rows.csv", [dataclasses.asdict(row) for row in rows])
    assert read_csv(tmp_path / "rows.csv") == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read .*rows.csv: No such file"),
        ("kind,name\ncenter,dog\n", "expected in .*rows.csv the columns kind, name, hole_share"),
        ("one\nline,\n", "a table that does not fit"),
    ],
)
def test_tables_that_do_not_fit(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InpaintError, match=message) as caught:
        read_csv(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("written", "wrong"), [("1.0", ""), ("1.0", "one")])
def test_a_number_that_is_none(written: str, wrong: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_csv(path, [dataclasses.asdict(measurement("dog"))])
    path.write_text(path.read_text().replace(f"center,dog,{written}", f"center,dog,{wrong}"))
    with pytest.raises(InpaintError, match="run `inpaint evaluate` again"):
        read_csv(path)
