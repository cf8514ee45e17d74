"""Table of quality out of finished evaluations.

    inpaint evaluate photographs benchmarks/evaluation_masks --out report
    python benchmarks/quality.py "default weights=report" --out benchmarks/results/quality-512-cpu.json

Each NAME=FOLDER is one method; FOLDER holds the summary.json of `inpaint evaluate`. All have to be of as many
photographs and of the same kinds of holes, measured on one machine with one version of everything. The result names no
folder of this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import tables

from inpaint.errors import InpaintError

SHARED = ("images", "conventions", "versions", "machine")  # what all evaluations have in common


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of an evaluation. Raises InpaintError where there is none."""
    file = folder / "summary.json"
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InpaintError(
            f"expected an evaluation in {folder}, could not read {file}: {error}; make one by `inpaint evaluate`"
        ) from error


def without_folders(command: str) -> str:
    """A command with placeholders for photographs and masks, and all other files by their last name."""
    arguments = shlex.split(command)[1:]
    places = iter(("PHOTOGRAPHS", "MASKS"))
    kept = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        is_place = not word.startswith("-") and not before.startswith("-") and word != "evaluate"
        kept.append(next(places, Path(word).name) if is_place else Path(word).name)
    return shlex.join(["inpaint", *kept])


def collect(summaries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One result out of the summaries of named methods. Raises InpaintError if they cannot stand in one table."""
    first_name, first = next(iter(summaries.items()))
    for name, summary in summaries.items():
        if list(summary["kinds"]) != list(first["kinds"]):
            raise InpaintError(
                f"expected the kinds {', '.join(first['kinds'])} as in {first_name}, {name} has "
                f"{', '.join(summary['kinds'])}; evaluate the same kinds"
            )
        if any(means["lpips"] is None for means in summary["kinds"].values()):
            raise InpaintError(f"expected LPIPS, {name} has none; get its weights by `make lpips` and evaluate again")
        for fact in SHARED:
            if summary[fact] != first[fact]:
                raise InpaintError(
                    f"expected the same {fact} as in {first_name}, {name} has others; evaluate both alike"
                )
    return {
        "method_sha256": first.get("method_sha256"),
        "date": max(summary["date"] for summary in summaries.values()),
        **{fact: first[fact] for fact in SHARED},
        "commands": {name: without_folders(summary["command"]) for name, summary in summaries.items()},
        "results": [
            {"method": name, "kind": kind, **means}
            for name, summary in summaries.items()
            for kind, means in summary["kinds"].items()
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("evaluations", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    try:
        named = [each.partition("=") for each in arguments.evaluations]
        if wrong := [name for name, _, folder in named if not folder]:
            raise InpaintError(f"expected NAME=FOLDER, got {wrong[0]}; name the method of each evaluation")
        content = collect({name: read_summary(Path(folder)) for name, _, folder in named})
    except InpaintError as error:
        sys.exit(f"error: {error}")
    temporary = arguments.out.with_name(arguments.out.name + ".part")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, arguments.out)
    print(tables.quality(content["results"]))


if __name__ == "__main__":
    main()
