"""The documents' tables are those of the measurements in benchmarks/results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import tables  # noqa: E402


def row(rival: str, size: str, milliseconds: float, **more: object) -> dict[str, object]:
    base = {"rival": rival, "label": rival, "group": "rival", "features": "photo", "size": size}
    base |= {"queries": 10, "keys": 100, "hole_cells": 5, "median_ms": milliseconds, "times_ours": milliseconds / 10}
    base |= {"direct_tflops": 0.5, "executed_tflops": None, "percent_of_gemm_peak": None, "gigabytes_per_second": None}
    return base | {"peak_memory_mib": 12.0, "same_picks": 0.9999, "picoseconds_per_pair": 1234.0} | more


RESULTS = [
    row("ours", "256/112", 10.0),
    row("product-whole-fp32", "256/112", 170.0),
    row("ours", "512/224", 10.0),
    row("product-whole-fp32", "512/224", 1234.5),
    row("product-blocks-fp32", "512/224", 2000.0),
    row("product-blocks-bf16", "512/224", 20.0),
    {**row("faiss-flat", "512/224", 1.0), "skipped": "does not fit"},
]
del RESULTS[-1]["median_ms"]


@pytest.mark.skipif(not tables.RESULTS.exists(), reason="a source distribution without results")
def test_documents_are_up_to_date() -> None:
    command = [sys.executable, str(BENCHMARKS / "tables.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + "run: python benchmarks/tables.py"


def test_times() -> None:
    lines = tables.match_times(RESULTS, "photo").splitlines()
    assert lines[0] == "| median (times ours) | 256/112 | 512/224 |"
    assert lines[2:4] == ["| ours | 10.0 ms | 10.0 ms |", "| product-blocks-bf16 | - | 20.0 ms (2 x) |"]
    assert "| product-whole-fp32 | 170 ms (17 x) | 1,234 ms (123 x) |" in lines
    assert not any("faiss" in line for line in lines)


def test_summary_takes_the_fastest_exact_form() -> None:
    lines = tables.match_summary(RESULTS).splitlines()
    assert lines[2:] == ["| **`ours`** | 10.0 ms | - |", "| product-whole-fp32 | 1,234 ms (123 x) | - |"]


def test_every_table_renders(tmp_path: Path) -> None:
    for name, (file, _) in tables.TABLES.items():
        assert tables.render(name, tmp_path).startswith("Not measured yet")
        if file.startswith(("match-cpu", "match-cuda")):
            (tmp_path / file).write_text(json.dumps({"results": RESULTS}))
            lines = tables.render(name, tmp_path).splitlines()
            (tmp_path / file).unlink()
            if name.endswith(("random", "1024")):  # RESULTS holds no such case
                assert lines == ["Not measured: it did not fit into the time budget."]
            else:
                assert len({line.count("|") for line in lines}) == 1, "every row has as many cells as the header"


def test_every_table_of_the_documents_is_rendered() -> None:
    assert {"README.md", "docs/quality.md"} <= set(tables.DOCUMENTS)
    for name in tables.DOCUMENTS:
        found = {match["name"] for match in tables.BLOCK.finditer((BENCHMARKS.parent / name).read_text())}
        assert found <= tables.TABLES.keys() | {"kernel-resources"}, name  # that one is kernel_resources.py's


def test_table1_names_weights_that_are_not_the_default() -> None:
    measures = {"hole_l1": 1.0, "l1": 1.0, "ssim": 0.5, "lpips": 0.1, "seconds": 1.0}
    row = {"label": "ours", **measures}
    for digest, label in (("0123456789", "ours, weights 01234567"), (tables.default_weights(), "ours")):
        line = tables.table1([row | {"settings": {"weights_sha256": digest}}]).splitlines()[2]
        assert line.startswith(f"| {label} |")


def test_a_variant_has_its_difference_from_the_default() -> None:
    means = {"kind": "center", "hole_l1": 13.5, "ssim": 0.87, "lpips": None}
    difference = {"hole_l1": {"mean": -0.25, "error": 0.05}, "ssim": {"mean": 0.001, "error": 0.0002}, "lpips": None}
    rows = [means | {"change": "the default"}, means | {"change": "other", "difference": difference, "seconds": 1.5}]
    header, _, default, other = tables.ablation(rows).splitlines()
    assert header.endswith("| seconds |") and default == "| the default | center | 13.50 / .8700 / - |  |  |  |  |"
    assert other == "| other | center | 13.50 / .8700 / - | -.25 ± .05 | +.0010 ± .0002 |  | 1.50 |"


def test_chosen_keys_by_scale_and_source() -> None:
    row = {"kind": "center", "short_side": 128, "source": "pipeline", "images": 2, "same": 26.49, "within_4": 40.0}
    text = tables.match_quality([row | {"score": 0.5, "best_score": 0.75, "reach": 0.6}])
    assert text.splitlines()[0].startswith("| holes | scale | keys chosen from | same key % | within 4 cells % | NCC |")
    assert text.splitlines()[2] == "| center | 128 | pipeline | 26.5 | 40.0 | 0.500 | 0.600 | 0.750 |"


def test_blocks_are_replaced_and_nothing_else() -> None:
    text = "a\n<!-- table: one -->\nold\n<!-- end -->\nb\n<!-- table: two -->\nkept\n<!-- end -->\n"
    replaced, changed = tables.replace_blocks(text, {"one": "new\n"}.get)
    assert replaced == text.replace("old", "new") and changed == ["one"]
    assert tables.replace_blocks(replaced, {"one": "new\n"}.get) == (replaced, [])


def test_check_finds_an_edited_number(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text("<!-- table: x -->\n| 97 ms |\n<!-- end -->\n")
    assert tables.update(document, lambda name: "| 96 ms |\n", check=True) == ["x"]
    assert "97" in document.read_text()
    assert tables.update(document, lambda name: "| 96 ms |\n", check=False) == ["x"]
    assert document.read_text() == "<!-- table: x -->\n| 96 ms |\n<!-- end -->\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0.01234, "0.0123"), (9.876, "9.88"), (14.32, "14.3"), (99.96, "100"), (1234.4, "1,234")],
)
def test_numbers(value: float | None, text: str) -> None:
    assert tables.number(value) == text


def test_a_layer_has_both_times_and_errors() -> None:
    row = {"layer": "conv", "channels": 64, "outputs": 32, "side": 128, "ours_ms": 2.0, "torch_ms": 5.0}
    row |= {"times_ours": 2.5, "ours_error": 1e-5, "torch_error": 1e-6}
    last = tables.convolutions([row]).splitlines()[-1]
    assert last == "| conv | 64 to 32, 128x128 | **2.00 ms** | 5.00 ms (2.5 x) | 1.0e-05 | 1.0e-06 |"


def test_holes_are_compared_with_squares_of_as_many_cells() -> None:
    shared = {"share_percent": 1.0, "keys": 100}
    thin = {**shared, "shape": "thin", "hole_cells": 10, "queries": 20, "query_cells": 40, "median_ms": 6.0}
    square = {**shared, "shape": "square", "hole_cells": 10, "queries": 12, "query_cells": 20, "median_ms": 3.0}
    last = tables.holes([thin, square]).splitlines()[-1]
    assert last == "| 1 % | 10 / 10 | 20 / 12 | 40 / 20 | 6.00 ms | 3.00 ms | 2.00 | 1.20 | 1.00 |"
