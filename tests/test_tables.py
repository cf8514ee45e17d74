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


def test_forms_of_matching() -> None:
    lines = tables.match_forms(RESULTS).splitlines()
    assert lines[0] == "| form | 512/224 | 1024/512 | memory, 512/224 | same choice |"
    assert lines[2:] == [
        "| ours | **10.0 ms** | - | 12 MiB | 99.99 % |",
        "| product-blocks-bf16 | 20.0 ms (2 x) | - | 12 MiB | 99.99 % |",
        "| product-whole-fp32 | 1,234 ms (123 x) | - | 12 MiB | 99.99 % |",
    ], "the fastest form of each kind, nothing of what was skipped"


def test_summary_of_speed() -> None:
    pipeline = [
        {"form": form, "size": "512/224", "median_ms": time, "times_ours": time / 300}
        for form, time in (("ours", 300.0), ("telea", 60.0), ("neural-paper", 9000.0), ("neural-fast", 6000.0))
    ]
    photograph = [{"hole": "200x200", "median_ms": 512.3}]
    matching = [*RESULTS, row("style-swap-fp32", "512/224", 45.0)]
    assert tables.speed_summary(pipeline, photograph, matching).splitlines()[2:] == [
        "| fill 224x224 in 512x512 | **0.300 s** | neural inpainting: 6.00 s (20 x) |",
        "| fill 200x200 in 10 megapixels | **0.512 s** |  |",
        "| match, 512/224 | **10.0 ms** | convolution: 45.0 ms (4.5 x) |",
    ]


def test_ways_to_fill_a_picture() -> None:
    rows = [
        {"form": form, "label": label, "size": "256/112", "median_ms": time, "times_ours": time / 100}
        for form, label, time in (
            ("ours", "patchswap", 100.0),
            ("neural-a", "neural inpainting, matching by a", 9000.0),
            ("neural-b", "neural inpainting, matching by b", 8000.0),
        )
    ]
    lines = tables.pipeline_times([*rows, rows[0] | {"size": "512/224"}]).splitlines()
    assert lines[0] == "|  | 256/112 | 512/224 |"
    assert lines[2:] == ["| patchswap | **0.100 s** | **0.100 s** |", "| neural inpainting | 8.00 s (80 x) | - |"]


MACHINE = {"date": "2026-01-31T10:00:00", "commit": "abc1234 (changed)", "cpu": "A", "instruction_set": "AVX2 only"}


def test_captions_name_time_hardware_code_and_weights() -> None:
    on_cpu = {"machine": MACHINE | {"threads": 2}, "results": [{"weights_sha256": "0123456789"}, {}]}
    assert tables.caption([on_cpu, on_cpu]) == (
        "Measured 2026-01-31; A, AVX2, 2 threads; commit abc1234; weights 01234567, not the default."
    )
    on_gpu = {"machine": MACHINE | {"gpu": {"name": "G"}}, "method_sha256": tables.default_weights(), "results": []}
    assert tables.caption([on_gpu]) == (
        f"Measured 2026-01-31; G; commit abc1234; weights {tables.default_weights()[:8]}."
    )


def test_every_table_renders(tmp_path: Path) -> None:
    for name, (files, _) in tables.TABLES.items():
        assert tables.render(name, tmp_path).startswith("Not measured yet")
        if name.startswith("match-cpu"):
            (tmp_path / files[0]).write_text(json.dumps({"machine": MACHINE | {"threads": 1}, "results": RESULTS}))
            rows, caption = tables.render(name, tmp_path).split("\n\n")
            assert len({line.count("|") for line in rows.splitlines()}) == 1, (
                "every row has as many cells as the header"
            )
            assert caption == "*Measured 2026-01-31; A, AVX2, 1 thread; commit abc1234.*\n"


@pytest.mark.skipif(not tables.RESULTS.exists(), reason="a source distribution without results")
def test_no_table_is_rendered_for_nobody() -> None:
    texts = "".join((BENCHMARKS.parent / name).read_text() for name in tables.DOCUMENTS)
    assert {match["name"] for match in tables.BLOCK.finditer(texts)} == set(tables.TABLES)


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
    assert header == "| change | holes | hole L1 % | SSIM | LPIPS | seconds |"
    assert default == "| the default | center | 13.50 | .8700 | - |  |"
    assert other == "| other | center | -.25±.05 | +.0010±.0002 |  | 1.50 |"


def test_chosen_keys_by_scale_and_source() -> None:
    row = {"kind": "center", "short_side": 128, "source": "pipeline", "images": 2, "same": 26.49, "within_4": 40.0}
    text = tables.match_quality([row | {"score": 0.5, "best_score": 0.75, "reach": 0.6}])
    assert text.splitlines()[2] == "| center | 128 | pipeline | 26.5 | 0.500 | 0.600 | 0.750 |"


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
