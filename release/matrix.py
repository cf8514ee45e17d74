"""Tries the wheels of dist/ in clean environments, and writes what happened as JSON for the table in docs/install.md.

    python release/matrix.py --environments FOLDER                      # every cell
    python release/matrix.py --environments FOLDER --only 3.10 3.13     # of these versions of Python

A cell is a Python, a PyTorch, a numpy, a Pillow and a kind of wheel. Each pair of Python and PyTorch has an environment
below FOLDER, which is kept for the next time: two runs with one FOLDER must not have a pair in common. There, outside
the sources, the wheel is installed, `inpaint fill` fills a photograph, and the tests of `patchswap` run against the
installed package. Pythons are taken from PATH and from pyenv.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement

sys.path.insert(0, str(Path(__file__).parent))

from stand_ins import make_stand_ins

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "wheels.json"
# What PyTorch itself imports on a CPU; its other requirements are NVIDIA's libraries, see stand_ins.py.
OF_TORCH = ("filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy", "typing-extensions")
FOR_TESTS = ("hypothesis", "pytest")
# Tests of the sources and of their compilation, which say nothing of an installed package.
NOT_OF_A_WHEEL = ("test_build.py", "test_cuda_items.py", "test_recipes.py")
MARKER = "[pytest]\naddopts = --import-mode=importlib --strict-markers\nmarkers =\n    gpu: needs an NVIDIA GPU\n"
PHOTOGRAPH = """
import numpy, PIL.Image
rows, columns = numpy.mgrid[:120, :160]
photo = numpy.stack([rows, columns, (rows * columns) % 251], 2).astype(numpy.uint8)
hole = numpy.zeros((120, 160), numpy.uint8)
hole[40:80, 50:110] = 255
PIL.Image.fromarray(photo).save("photo.png")
PIL.Image.fromarray(hole).save("mask.png")
"""
COMPARISON = """
import json, numpy, PIL, PIL.Image, torch, patchswap
before, after, hole = (numpy.asarray(PIL.Image.open(f"{name}.png")) for name in ("photo", "filled", "mask"))
assert before.shape == after.shape and (before == after)[hole == 0].all() and (before != after)[hole > 0].any()
info = patchswap.build_info()
print(json.dumps({"torch": torch.__version__, "numpy": numpy.__version__, "pillow": PIL.__version__,
                  "library": info["extension"], "kernel": info["cpu_kernel"], "package": patchswap.__file__}))
"""


class Cell(NamedTuple):
    python: str
    torch: str
    numpy: str
    pillow: str
    kind: str


CELLS = (
    Cell("3.10", "2.10.0", "1.26.4", "11.3.0", "cpu"),
    Cell("3.11", "2.13.0", "1.26.4", "11.3.0", "cpu"),
    Cell("3.11", "2.13.0", "2.4.6", "12.0.0", "cuda"),
    Cell("3.11", "2.13.0", "2.4.6", "12.0.0", "any"),
    Cell("3.12", "2.11.0", "2.4.6", "12.0.0", "cpu"),
    Cell("3.13", "2.15.0", "", "", "cpu"),  # the newest numpy and Pillow
    Cell("3.13", "2.15.0", "", "", "cuda"),
)


KINDS = tuple(dict.fromkeys(cell.kind for cell in CELLS))


def chosen_cells(dist: Path, kinds: Sequence[str], versions: Sequence[str]) -> list[tuple[Cell, Path]]:
    """Cells of these kinds and versions of Python, or of all where none is named, that have a wheel; and the wheel."""
    wheels = {kind: next((dist / kind).glob("*.whl"), None) for kind in kinds}
    wanted = [cell for cell in CELLS if cell.kind in kinds and (not versions or cell.python in versions)]
    return [(cell, wheel) for cell in wanted if (wheel := wheels[cell.kind])]


def interpreter(version: str) -> str:
    """Of Python, in this version."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for found in (shutil.which(f"python{version}"), *sorted(map(str, pyenv.glob(f"{version}.*/bin/python")))):
        if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
            return found
    sys.exit(f"error: expected Python {version} on PATH or in {pyenv}, found none; install it or name others in --only")


def run(command: list[Any], folder: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PATCHSWAP_"))}
    done = subprocess.run(list(map(str, command)), cwd=folder, env=inherited, capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done


def environment(cell: Cell, wheel: Path, folder: Path) -> Path:
    """Its Python, with the wheel and what that requires, in the versions of the cell."""
    place = folder / f"{cell.python}-{cell.torch}"
    python = place / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
    if not python.exists():
        run([interpreter(cell.python), "-m", "venv", place], folder)
    run([*pip, "--no-deps", f"torch=={cell.torch}"], folder)
    (libraries,) = place.glob("lib/python*/site-packages/torch/lib")
    make_stand_ins(libraries)
    chosen = {"numpy": cell.numpy, "pillow": cell.pillow}
    named = [f"{name}=={version}" if version else name for name, version in chosen.items()]
    run([*pip, *named, *OF_TORCH, *FOR_TESTS, *required_by(wheel)], folder)
    run([*pip, "--no-deps", "--force-reinstall", wheel], folder)
    return python


def required_by(wheel: Path) -> list[str]:
    """The requirements in a wheel's metadata, without those of extras and without torch."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    found = [Requirement(line) for line in re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE)]
    return [str(each) for each in found if each.name != "torch" and not (each.marker and "extra" in str(each.marker))]


def fill(python: Path) -> dict[str, Any]:
    """Fill a photograph from an empty folder. Returns what was imported there."""
    with tempfile.TemporaryDirectory() as empty:
        folder = Path(empty)
        run([python, "-c", PHOTOGRAPH], folder)
        run([python.with_name("inpaint"), "fill", "photo.png", "mask.png", "-o", "filled.png"], folder)
        return json.loads(run([python, "-c", COMPARISON], folder).stdout)


def test(python: Path, selection: list[str]) -> dict[str, int]:
    """The tests of `patchswap`, copied away from the sources. Returns how many passed, failed and were skipped."""
    with tempfile.TemporaryDirectory() as empty:
        folder = Path(empty)
        leave_out = shutil.ignore_patterns("__pycache__", *NOT_OF_A_WHEEL)
        shutil.copytree(ROOT / "tests" / "patchswap", folder / "tests" / "patchswap", ignore=leave_out)
        shutil.copy(ROOT / "tests" / "conftest.py", folder / "tests")
        (folder / "pytest.ini").write_text(MARKER)
        done = run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *selection, "tests"], folder, check=False)
    print(done.stdout[-3000:], flush=True)
    if not done.stdout.strip():
        raise RuntimeError(f"expected the report of pytest, got: {done.stderr[-3000:]}")
    last = done.stdout.strip().splitlines()[-1]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", last)}
    return {"passed": 0, "failed": 0, "skipped": 0, **counts}


def machine() -> dict[str, Any]:
    """The system that the wheels were tried on."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    system = platform.freedesktop_os_release()
    return {
        "date": date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "cpu": f"{system['ID'].capitalize()} {system.get('VERSION_ID', '')}, glibc {platform.libc_ver()[1]}",
        "threads": os.cpu_count(),
    }


def keep(result: dict[str, Any]) -> None:
    """Put a cell's result into the file, in place of an earlier one."""
    kept = json.loads(RESULTS.read_text())["results"] if RESULTS.exists() else []
    kept = [each for each in kept if each["cell"] != result["cell"]] + [result]
    found = {"machine": machine(), "results": sorted(kept, key=lambda each: each["cell"])}
    RESULTS.write_text(json.dumps(found, indent=4) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="folder that release/builder.py wrote")
    parser.add_argument("--only", nargs="+", default=[], metavar="VERSION", help="these versions of Python")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="these kinds of wheel")
    parser.add_argument("--tests", default="", metavar="EXPRESSION", help="only these tests, as pytest -k takes them")
    arguments = parser.parse_args()
    arguments.environments.mkdir(parents=True, exist_ok=True)
    cells = chosen_cells(arguments.dist, arguments.kinds, arguments.only)
    if not cells:
        parser.error(
            f"expected wheels in {arguments.dist} for {', '.join(arguments.kinds)} and Python "
            f"{', '.join(arguments.only or sorted({cell.python for cell in CELLS}))}, found none; "
            "run: python release/builder.py"
        )
    failed = False
    for cell, wheel in cells:
        print("==>", cell, flush=True)
        result: dict[str, Any] = {**cell._asdict(), "cell": list(cell), "wheel": wheel.name}
        try:
            python = environment(cell, wheel.resolve(), arguments.environments.resolve())
            result |= fill(python)
            if not Path(result.pop("package")).is_relative_to(arguments.environments.resolve()):
                raise RuntimeError("expected the installed package, imported another one")
            result |= test(python, ["-k", arguments.tests] if arguments.tests else [])
            result["tests"] = arguments.tests
        except (RuntimeError, subprocess.CalledProcessError) as error:
            print(error)
            result["failure"] = str(error).strip().splitlines()[-1]
        failed |= "failure" in result or "error" in result or result["failed"] > 0 or not result["passed"]
        keep(result)
        print(json.dumps(result), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
