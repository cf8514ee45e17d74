"""The checks of release/ find what they look for, in archives and libraries made for it."""

from __future__ import annotations

import base64
import ctypes
import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "release"))

import audit
import check
import matrix
import reproducible
import stand_ins
from elftools.elf.elffile import ELFFile

WEIGHTS = {"default.safetensors": b"numbers"}
FILES = {
    "patchswap/__init__.py": b"",
    "inpaint/__init__.py": b"",
    **{f"inpaint/pretrained/{name}": content for name, content in WEIGHTS.items()},
    "inpaint/pretrained/SHA256SUMS": b"".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode() for name, content in WEIGHTS.items()
    ),
    "patchswap-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: patchswap\nVersion: 1.0\n"
    b"Requires-Dist: torch>=2.10\nRequires-Dist: numpy\nRequires-Dist: tqdm; extra == 'train'\n",
    "patchswap-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}


def wheel(folder: Path, files: dict[str, bytes], recorded: dict[str, bytes] | None = None) -> Path:
    """A wheel of these files, whose RECORD lists those of `recorded`."""
    lines = []
    for name, content in (recorded or files).items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}\n")
    record = "patchswap-1.0.dist-info/RECORD"
    folder.mkdir(exist_ok=True)
    path = folder / "patchswap-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**files, record: f"{''.join(lines)}{record},,\n".encode()}.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return path


def library(file: Path, source: str, *options: str) -> Path:
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-x", "none", "-o", file, *options]
    subprocess.run(command, input=source.encode(), check=True)
    return file


def test_a_sound_wheel_passes(tmp_path: Path) -> None:
    assert check.problems_of_wheel(wheel(tmp_path, FILES), "any") == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tests/test_a.py": b""}, "found .*tests"),
        ({"patchswap/_C.abi3.so": b"\x7fELF"}, "_C.abi3.so: expected none"),
        ({"inpaint/pretrained/default.safetensors": b"others"}, "expected the SHA-256 of its manifest"),
    ],
)
def test_what_is_wrong_in_a_wheel_is_found(tmp_path: Path, monkeypatch, changes, words) -> None:
    monkeypatch.setattr(check, "problems_of_library", lambda content: [])
    (problem,) = check.problems_of_wheel(wheel(tmp_path, {**FILES, **changes}), "any")
    assert re.search(words, problem)


def test_a_wheel_without_its_library(tmp_path: Path) -> None:
    assert check.problems_of_wheel(wheel(tmp_path, FILES), "cpu") == [f"{check.LIBRARY}: expected one"]


def test_a_file_that_record_does_not_know(tmp_path: Path) -> None:
    changed = wheel(tmp_path, {**FILES, "patchswap/__init__.py": b"import os"}, recorded=FILES)
    with pytest.raises(ValueError, match="patchswap/__init__.py"):
        check.problems_of_wheel(changed, "any")


def test_what_is_wrong_in_a_library_is_found(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(check, "problems_of_stable_abi", lambda file: [])
    sound = library(tmp_path / "sound.so", "#include <math.h>\ndouble f(double x) { return log2(x); }", "-lm")
    assert check.problems_of_library(sound.read_bytes()) == []
    with open(sound, "rb") as stream:
        assert check.floors(ELFFile(stream))["GLIBC"] >= (2, 2, 5)
    monkeypatch.setitem(check.FLOORS, "GLIBC", (2, 2))
    assert "GLIBC: expected (2, 2) or older" in check.problems_of_library(sound.read_bytes())[0]
    monkeypatch.undo()

    monkeypatch.setattr(check, "problems_of_stable_abi", lambda file: [])
    path = library(tmp_path / "path.so", 'const char* file = "/home/someone/torch.h";')
    assert "found ['/home/someone/torch.h']" in check.problems_of_library(path.read_bytes())[0]
    other = library(tmp_path / "other.so", "int g;", "-Wl,--no-as-needed", "-lresolv", "-Wl,-rpath,/opt")
    assert "libresolv.so.2" in check.problems_of_library(other.read_bytes())[0]


def test_differences_between_archives(tmp_path: Path) -> None:
    first = wheel(tmp_path / "1", FILES)
    assert reproducible.difference(first, wheel(tmp_path / "2", FILES)) is None
    other = {**FILES, "inpaint/__init__.py": b"#"}
    assert "inpaint/__init__.py" in (reproducible.difference(first, wheel(tmp_path / "3", other)) or "")
    again = wheel(tmp_path / "4", dict(reversed(FILES.items())), recorded=FILES)
    assert reproducible.difference(first, again) == "order, dates or rights of the entries"


def test_a_library_that_lacks_nvidias_loads_with_stand_ins(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    real = tmp_path / "given" / "libcudart.so.99"
    rules = tmp_path / "rules"
    rules.write_text("libcudart.so.99 { global: cudaGetDeviceCount; cudaFree; };")
    source = "int cudaGetDeviceCount(void) { return 7; } int cudaFree(void) { return 7; }"
    library(real, source, f"-Wl,-soname,{real.name}", f"-Wl,--version-script={rules}")
    folder = tmp_path / "lib"
    folder.mkdir()
    source = "int cudaGetDeviceCount(void); int cudaFree(void);\n"
    source += "int count(void) { return cudaGetDeviceCount(); } int release(void) { return cudaFree(); }"
    asking = library(folder / "libasks.so", source, str(real), "-Wl,-rpath,$ORIGIN", "-Wl,--disable-new-dtags")
    real.unlink()
    with pytest.raises(OSError, match="libcudart.so.99"):
        ctypes.CDLL(str(asking))

    assert stand_ins.make_stand_ins(folder) == ["libcudart.so.99"]
    loaded = ctypes.CDLL(str(asking))
    assert (loaded.count(), loaded.release()) == (stand_ins.NO_DEVICE, 0)
    assert sorted(path.name for path in folder.iterdir()) == ["libasks.so", "libcudart.so.99"]
    assert stand_ins.make_stand_ins(folder) == []


def test_requirements_of_a_wheel(tmp_path: Path) -> None:
    assert matrix.required_by(wheel(tmp_path, FILES)) == ["numpy"]


def test_reports_of_an_audit() -> None:
    fault = {"id": "PYSEC-1", "fix_versions": ["2"]}
    clean, skipped = {"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "not found"}
    assert audit.report([clean]) == ("1 packages looked up, 0 known vulnerabilities", 0)
    assert audit.report([skipped])[1] == 0 and "skipped" in audit.report([skipped])[0]
    said, status = audit.report([clean, skipped, {**clean, "name": "c", "vulns": [fault]}])
    assert status == 1 and "c 1: PYSEC-1, mended in 2" in said and "not known there: b" in said


def test_a_wheel_that_lacks_a_package(tmp_path: Path) -> None:
    files = {name: content for name, content in FILES.items() if not name.startswith("patchswap/")}
    (problem,) = check.problems_of_wheel(wheel(tmp_path, files), "any")
    assert problem == "expected patchswap, inpaint and metadata, found inpaint, patchswap-1.0.dist-info"


def test_cells_of_the_matrix_have_a_wheel(tmp_path: Path) -> None:
    assert matrix.chosen_cells(tmp_path, matrix.KINDS, []) == []
    made = wheel(tmp_path / "any", FILES)
    assert [(cell.kind, path) for cell, path in matrix.chosen_cells(tmp_path, matrix.KINDS, [])] == [("any", made)]
    assert matrix.chosen_cells(tmp_path, matrix.KINDS, ["3.9"]) == matrix.chosen_cells(tmp_path, ["cpu"], []) == []


def test_a_matrix_without_wheels_fails(tmp_path: Path) -> None:
    command = [matrix.__file__, "--environments", tmp_path / "cells", "--dist", tmp_path]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 2 and "found none; run: python release/builder.py" in done.stderr
