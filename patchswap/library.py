"""The compiled library beside this file: loads it, or tells why it is not there and what to do."""

from __future__ import annotations

import ctypes
import os
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

import torch

FILE = "_C.abi3.so"
VARIABLE = "PATCHSWAP_NO_LIBRARY"
LOG = "PATCHSWAP_LOG"  # read by csrc/ops.cpp and reference.py

Cause = Literal["hidden", "not built", "does not load", "not wanted"]


class Extension(NamedTuple):
    """What the compiled library says of itself (see csrc/ops.cpp); empty strings where it has no CUDA kernels."""

    cpu_kernel: str
    cuda_toolkit: str
    cuda_architectures: str


class LibraryError(Exception):
    """The compiled library is not loaded. The message says what was expected, what was found and what to do.

    cause: "hidden": a source folder comes before the installed package on sys.path; "not built": there is no library
    anywhere; "does not load": the system's loader refuses the file; "not wanted": PATCHSWAP_NO_LIBRARY is set, or was
    when the package was installed.
    """

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(f"patchswap: {message}")
        self.cause = cause


def is_set(variable: str) -> bool:
    """Whether an environment variable switches something on."""
    return os.environ.get(variable, "0") not in ("", "0")


def load() -> Extension:
    """Load the library, which registers the operators.

    Raises:
        LibraryError: it is missing, does not fit this torch, or is not wanted.
    """
    if is_set(VARIABLE):
        raise LibraryError("not wanted", f"{VARIABLE} is set, plain torch code serves every device")
    path = Path(__file__).with_name(FILE)
    if not path.exists():
        raise _missing(path)
    try:
        torch.ops.load_library(path)
    except OSError as error:  # torch's, caused by the loader's
        raise LibraryError(
            "does not load",
            f"expected a compiled library for torch {torch.__version__} and this system, {path} does not load "
            f"({error.__cause__ or error}); build it here: `pip install --force-reinstall --no-deps .` in the sources",
        ) from error
    library = ctypes.CDLL(str(path))
    answers = []
    for name in Extension._fields:
        function = getattr(library, f"patchswap_{name}")
        function.restype = ctypes.c_char_p
        answers.append(function().decode())
    return Extension(*answers)


def _missing(path: Path) -> LibraryError:
    if _installed_without(path):
        return LibraryError(
            "not wanted",
            f"installed with {VARIABLE}=1, plain torch code serves every device; for the compiled library: "
            "`pip install --force-reinstall --no-deps .` in the sources",
        )
    expected = f"expected the compiled library {FILE} in {path.parent}, found none"
    if (installed := _installed_elsewhere(path)) is None:
        return LibraryError("not built", f"{expected}; build it: `pip install .` in the sources")
    return LibraryError(
        "hidden",
        f"{expected}: this folder hides the package that is installed in {installed}; run Python from another folder "
        f"or with PYTHONSAFEPATH=1 (Python 3.11 or newer), and keep {path.parent.parent} out of PYTHONPATH",
    )


def _installed_without(path: Path) -> bool:
    """Whether the package in this folder was installed from a wheel of plain Python."""
    for distribution in metadata.distributions(name="patchswap"):
        folder = Path(str(distribution.locate_file(path.parent.name)))
        if folder.is_dir() and folder.samefile(path.parent):
            return "Root-Is-Purelib: true" in (distribution.read_text("WHEEL") or "")
    return False


def _installed_elsewhere(path: Path) -> Path | None:
    """The folder of an installed package that has its library."""
    for distribution in metadata.distributions(name="patchswap"):
        file = Path(str(distribution.locate_file(f"{path.parent.name}/{FILE}")))
        if file.is_file():
            return file.parent
    return None
