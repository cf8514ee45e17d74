"""Checks what release/builder.py made, and prints the size and the floors of each file.

    python release/check.py               # all files of dist/
    python release/check.py DIST

A wheel has to hold the two packages and nothing else; every file has the hash in RECORD, and the weights those of
their own manifest. A library asks only for the libraries listed here, in versions that its platform's name promises,
uses Python's stable ABI alone, and names no folder of the machine that built it. twine checks the metadata.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from elftools.elf.elffile import ELFFile
from installer.sources import WheelFile

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = "patchswap/_C.abi3.so"
NAMES = {
    "sdist": r"patchswap-[\d.]+\.tar\.gz",
    "any": r"patchswap-[\d.]+-py3-none-any\.whl",
    "cpu": r"patchswap-[\d.]+\+cpu-cp310-abi3-manylinux_2_34_x86_64\.whl",
    "cuda": r"patchswap-[\d.]+-cp310-abi3-manylinux_2_34_x86_64\.whl",
}
# CUDA's runtime is not among them: it is linked statically.
NEEDED = {"libtorch.so", "libtorch_cpu.so", "libstdc++.so.6", "libgcc_s.so.1", "libm.so.6", "libc.so.6"}
NEEDED |= {"ld-linux-x86-64.so.2"}
FLOORS = {"GLIBC": (2, 34), "GLIBCXX": (3, 4, 29), "CXXABI": (1, 3, 13)}  # of manylinux_2_34: GCC 11
FOLDER_OF_A_MACHINE = re.compile(rb"/(?:root|home|tmp|work|Users|builds?)/[\w./-]+|site-packages")
LARGEST = 100e6  # bytes, PyPI's limit for a file
IN_SOURCES = (
    "setup.py",
    "csrc/ops.h",
    "build_backend/backend.py",
    "release/builder.py",
    "inpaint/pretrained/SHA256SUMS",
)


def problems_of_wheel(wheel: Path, kind: str) -> list[str]:
    found = []
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        folders = {name.split("/")[0] for name in names}
        extra = {each for each in folders if each not in ("patchswap", "inpaint") and not each.endswith(".dist-info")}
        if extra or not {"patchswap", "inpaint"} <= folders:
            found.append(f"expected patchswap, inpaint and metadata, found {', '.join(sorted(folders))}")
        if (LIBRARY in names) != (kind != "any"):
            found.append(f"{LIBRARY}: expected {'none' if kind == 'any' else 'one'}")
        manifest = archive.read("inpaint/pretrained/SHA256SUMS").decode().split()
        for digest, name in zip(manifest[::2], manifest[1::2], strict=True):
            if hashlib.sha256(archive.read(f"inpaint/pretrained/{name}")).hexdigest() != digest:
                found.append(f"inpaint/pretrained/{name}: expected the SHA-256 of its manifest")
        library = archive.read(LIBRARY) if LIBRARY in names else None
    with WheelFile.open(wheel) as record:
        record.validate_record()  # raises where a hash, or a file, differs from RECORD
    return found + (problems_of_library(library) if library else [])


def problems_of_library(content: bytes) -> list[str]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, Path(LIBRARY).name)
        file.write_bytes(content)
        found += problems_of_stable_abi(file)
        with open(file, "rb") as stream:
            elf = ELFFile(stream)
            tags = list(elf.get_section_by_name(".dynamic").iter_tags())
            needed = {tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"}
            if not needed <= NEEDED or any(tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH") for tag in tags):
                found.append(f"expected no other libraries than {NEEDED} and no search path, found {needed}")
            for name, floor in floors(elf).items():
                if name in FLOORS and floor > FLOORS[name]:
                    found.append(f"{name}: expected {FLOORS[name]} or older, found {floor}")
            print("        asks for", ", ".join(f"{n} {'.'.join(map(str, v))}" for n, v in floors(elf).items()))
    if paths := {match.group().decode() for match in FOLDER_OF_A_MACHINE.finditer(content)}:
        found.append(f"expected no folder of the building machine, found {sorted(paths)}")
    return found


def problems_of_stable_abi(file: Path) -> list[str]:
    command = ["-m", "abi3audit", "--strict", "--assume-minimum-abi3", "3.10", file]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    return [f"abi3audit: {done.stdout}{done.stderr}"] if done.returncode else []


def floors(elf: ELFFile) -> dict[str, tuple[int, ...]]:
    """The newest version of each system library's symbols: {"GLIBC": (2, 34), ...}."""
    newest: dict[str, tuple[int, ...]] = {}
    needs = elf.get_section_by_name(".gnu.version_r")
    for _, versions in needs.iter_versions() if needs else ():
        for version in versions:
            name, _, number = version.name.partition("_")
            if re.fullmatch(r"[\d.]+", number):
                newest[name] = max(newest.get(name, ()), tuple(map(int, number.split("."))))
    return dict(sorted(newest.items()))


def problems_of_sdist(sdist: Path) -> list[str]:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = [name for name in IN_SOURCES if name not in names]
    built = [name for name in names if name.endswith((".so", ".pyc"))]
    return [f"expected {name}, found none" for name in missing] + [f"expected no {name}" for name in built]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dist", nargs="?", type=Path, default=ROOT / "dist")
    dist = parser.parse_args().dist
    files = {kind: found for kind in NAMES if (found := list((dist / kind).glob("*")))}
    if not files:
        parser.error(f"expected folders {', '.join(NAMES)} in {dist}, found none; run: python release/builder.py")
    failed = 0
    for kind, (file, *others) in files.items():
        print(f"{file.stat().st_size / 1e6:7.2f} MB  {file.name}", flush=True)
        found = problems_of_sdist(file) if kind == "sdist" else problems_of_wheel(file, kind)
        if others or not re.fullmatch(NAMES[kind], file.name):
            found.append(f"expected one file named {NAMES[kind]}")
        if file.stat().st_size > LARGEST:
            found.append(f"expected at most {LARGEST:.0f} bytes")
        metadata = subprocess.run(
            [sys.executable, "-m", "twine", "check", "--strict", file], capture_output=True, text=True
        )
        found += [metadata.stdout] if metadata.returncode else []
        for problem in found:
            print(f"error: {file.name}: {problem}")
        failed += bool(found)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
