"""Where the compiled library is not loaded: one warning that names the cause, and build_info that says the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import patchswap
from patchswap import library, ops

# Line 3 imports the package for the first time.
PROGRAM = """\
import json
import torch
import patchswap
import patchswap.ops
from patchswap import swap
swap(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3))
print(json.dumps(patchswap.build_info()))
"""
NOT_INSTALLED = """\
from importlib import metadata
of = metadata.distributions
metadata.distributions = lambda **wanted: iter(()) if wanted.get("name") == "patchswap" else of(**wanted)
"""


class Answer(NamedTuple):
    info: dict[str, Any]
    errors: str


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder with the package and without its library, as a checkout is."""
    folder = tmp_path / "sources"
    without = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(Path(patchswap.__file__).parent, folder / "patchswap", ignore=without)
    return folder


def run(program: str, *path: Path, **variables: str) -> Answer:
    """Run the program with these folders first on sys.path, and with every warning shown each time."""
    file = path[0] / "program.py"
    file.write_text(program)
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", library.VARIABLE)}
    environment = {**inherited, "PYTHONPATH": os.pathsep.join(map(str, path)), **variables}
    command = [sys.executable, "-W", "always::RuntimeWarning", str(file)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return Answer(json.loads(found.stdout), found.stderr)


def install(folder: Path) -> None:
    """The package as pip leaves it, but that the library is an empty file."""
    (folder / "patchswap").mkdir(parents=True)
    (folder / "patchswap" / library.FILE).touch()
    (folder / "patchswap-1.dist-info").mkdir()
    (folder / "patchswap-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: patchswap\nVersion: 1\n")


def check(answer: Answer, cause: str, line: int, *words: str) -> None:
    assert (answer.info["extension"], answer.info["extension_cause"]) == (False, cause)
    assert answer.info["cpu_kernel"] == "reference"
    assert answer.errors.count("RuntimeWarning") == 1
    error = answer.info["extension_error"]
    assert f"program.py:{line}: RuntimeWarning: {error}" in answer.errors  # where it is imported
    for word in words:
        assert word in error


def test_a_source_folder_hides_the_installed_package(sources: Path, tmp_path: Path) -> None:
    install(tmp_path / "site")
    answer = run(PROGRAM, sources, tmp_path / "site")
    words = (f"in {sources / 'patchswap'}", f"installed in {tmp_path / 'site' / 'patchswap'};", "PYTHONSAFEPATH=1")
    check(answer, "hidden", 3, *words)


def test_not_built(sources: Path) -> None:
    answer = run(NOT_INSTALLED + PROGRAM, sources)
    check(answer, "not built", 6, f"in {sources / 'patchswap'}, found none; build it: `pip install .`")


def test_a_library_that_does_not_load(sources: Path) -> None:
    file = sources / "patchswap" / library.FILE
    file.write_bytes(b"no library")
    answer = run(PROGRAM, sources)
    check(answer, "does not load", 3, f"{file} does not load ({file}: ", "file too short", torch.__version__)


def test_plain_torch_code_on_demand(sources: Path) -> None:
    answer = run(PROGRAM, sources, PATCHSWAP_NO_LIBRARY="1")
    assert answer.info["extension_cause"] == "not wanted"
    assert "RuntimeWarning" not in answer.errors


def test_the_library_is_left_alone_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.VARIABLE, "1")
    with pytest.raises(library.LibraryError, match="PATCHSWAP_NO_LIBRARY is set"):
        library.load()


@pytest.mark.skipif(ops.extension is None, reason="the extension is not built")
def test_no_warning_where_it_is_loaded(tmp_path: Path) -> None:
    answer = run(PROGRAM, tmp_path, Path(patchswap.__file__).parent.parent)
    assert answer.info["extension"] and answer.info["extension_cause"] is answer.info["extension_error"] is None
    assert "RuntimeWarning" not in answer.errors
