"""What the benchmarks under pytest-benchmark add to its tables and files: the ratio of every form to ours.

Benchmarks have the parameters case and form, and each group, of one size, has a form "ours".
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import machine
import pytest

REFERENCE = "ours"
Groups = list[tuple[str | None, list[dict[str, Any]]]]  # a name and its benchmarks, with their parameters and times
GROUPS = pytest.StashKey[Groups]()


@pytest.hookimpl(optionalhook=True)  # this and the next are pytest-benchmark's
def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Results as bench_match.py writes them: the machine, and a few numbers of each benchmark instead of all times."""
    rows = output_json["benchmarks"]
    ours = {row["group"]: row["stats"]["median"] for row in rows if row["params"]["form"] == REFERENCE}
    kept = [
        {
            "size": row["params"]["case"],
            "form": row["params"]["form"],
            "median_ms": round(1e3 * row["stats"]["median"], 3),
            "fastest_ms": round(1e3 * row["stats"]["min"], 3),
            "runs": row["stats"]["rounds"],
            "times_ours": round(row["stats"]["median"] / ours[row["group"]], 3) if row["group"] in ours else None,
        }
        for row in rows
    ]
    command = " ".join(["pytest", *sys.argv[1:]])
    output_json.clear()
    output_json.update(machine=machine.describe("cpu", command), results=kept)


@pytest.hookimpl(optionalhook=True, wrapper=True)
def pytest_benchmark_group_stats(config: pytest.Config) -> Generator[None, Groups, Groups]:
    """The groups as pytest-benchmark makes them, kept for the summary."""
    config.stash[GROUPS] = yield
    return config.stash[GROUPS]


@pytest.hookimpl(trylast=True)  # after pytest-benchmark's table, whose ratios are to the fastest
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    groups, skipped = config.stash.get(GROUPS, []), terminalreporter.stats.get("skipped", [])
    if groups or skipped:
        terminalreporter.section("median, and how many times that of ours")
    for group, rows in groups:
        terminalreporter.write_line(str(group))
        medians = {row["params"]["form"]: row["median"] for row in rows}
        for form, median in sorted(medians.items(), key=lambda item: item[1]):
            ratio = f"{median / medians[REFERENCE]:10.3g} x" if REFERENCE in medians else ""
            terminalreporter.write_line(f"    {form:30}{median:10.4g} s{ratio}")
    for report in skipped:
        reason = report.longrepr[2].removeprefix("Skipped: ")
        terminalreporter.write_line(f"not measured: {report.nodeid}: {reason}")
