from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import machine
import pytest


@pytest.hookimpl(optionalhook=True)  # pytest-benchmark's
def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Results as bench_match.py writes them: the machine, and a few numbers of each benchmark instead of all times."""
    kept = [
        {
            "size": row["params"]["case"],
            "form": row["params"]["form"],
            "median_ms": round(1e3 * row["stats"]["median"], 3),
            "fastest_ms": round(1e3 * row["stats"]["min"], 3),
            "runs": row["stats"]["rounds"],
        }
        for row in output_json["benchmarks"]
    ]
    command = " ".join(["pytest", *sys.argv[1:]])
    output_json.clear()
    output_json.update(machine=machine.describe("cpu", command), results=kept)
