"""Asks PyPI, through pip-audit, for known vulnerabilities of the versions in release/test.txt and release/tools.txt.

    python release/audit.py

Exit status 1 where there are some. Where no service answers there is nothing to compare with: the reason is printed
and the exit status is 0, so that a build without network passes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
LISTS = ("test.txt", "tools.txt")


def audit(name: str) -> int:
    """The exit status for one list of versions."""
    command = ["pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner=off", "--format=json"]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--requirement", FOLDER / name], capture_output=True, text=True
    )
    try:
        asked = json.loads(done.stdout)["dependencies"]
    except (ValueError, LookupError):
        print(f"{name}: skipped, the service does not answer: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
        return 0
    said, status = report(asked)
    print(f"{name}: {said}")
    return status


def report(asked: list[dict[str, Any]]) -> tuple[str, int]:
    """In words what pip-audit found, and the exit status."""
    unknown = [each["name"] for each in asked if "skip_reason" in each]
    if len(unknown) == len(asked):
        return "skipped, the service knows none of the packages: a mirror without its vulnerability records?", 0
    found = [
        f"{each['name']} {each['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'no version'}"
        for each in asked
        for fault in each.get("vulns", ())
    ]
    words = "\n".join([f"{len(asked) - len(unknown)} packages looked up, {len(found)} known vulnerabilities", *found])
    return words + (f"\nnot known there: {', '.join(unknown)}" if unknown else ""), int(bool(found))


if __name__ == "__main__":
    sys.exit(max([audit(name) for name in LISTS]))
