"""Builds again, in other folders, and compares with dist/ byte by byte.

    python release/reproducible.py                # the kinds that dist/ has, without cuda
    python release/reproducible.py --kinds any

The same commit, compiler and PyTorch give the same bytes. The cuda wheel is left out: nvcc draws names at random.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from builder import KINDS, ROOT, build

COMPARED = KINDS[:-1]


def members(file: Path) -> dict[str, str]:
    """The hash of each file inside an archive."""
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            return {name: hashlib.sha256(wheel.read(name)).hexdigest() for name in wheel.namelist()}
    with tarfile.open(file) as sdist:
        files = ((member.name, sdist.extractfile(member)) for member in sdist)
        return {name: hashlib.sha256(content.read()).hexdigest() for name, content in files if content}


def difference(first: Path, second: Path) -> str | None:
    """What differs between two archives, or None where they are equal byte by byte."""
    if first.name != second.name:
        return f"the names {first.name} and {second.name}"
    if first.read_bytes() == second.read_bytes():
        return None
    one, other = members(first), members(second)
    changed = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    return ", ".join(changed) or "order, dates or rights of the entries"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dist", type=Path, default=ROOT / "dist")
    parser.add_argument("--kinds", nargs="+", choices=COMPARED, default=list(COMPARED))
    arguments = parser.parse_args()
    given = {kind: next((arguments.dist / kind).glob("*"), None) for kind in arguments.kinds}
    kinds = [kind for kind, file in given.items() if file]
    if not kinds:
        parser.error(
            f"expected some of {', '.join(arguments.kinds)} in {arguments.dist}; run: python release/builder.py"
        )
    different = 0
    with tempfile.TemporaryDirectory() as scratch:
        for kind, again in zip(kinds, build(kinds, Path(scratch)), strict=True):
            first = given[kind]
            assert first
            found = difference(first, again)
            print(f"{'differs' if found else 'equal':8} {again.name}{f': {found}' if found else ''}")
            different += bool(found)
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
