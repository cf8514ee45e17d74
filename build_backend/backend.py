"""PEP 517 build backend: setuptools, plus a torch to compile against.

An isolated build sees none of the packages of the environment it builds for; a plain `torch` among the build
requirements would download gigabytes that are already there. The library takes nothing from torch but headers and the
stable ABI, so any torch >= 2.10 serves, whichever Python it belongs to: one that can be found is used where it lies.
Only where there is none, torch joins the build requirements. PATCHSWAP_NO_LIBRARY=1 builds no library, and needs none.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import setuptools
from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401
    build_sdist,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

REQUIREMENT = "torch==2.13.0"
OLDEST_SETUPTOOLS = 77  # the first that reads `license = "MIT"` and needs no package wheel
QUERY = """
import importlib.metadata, importlib.util, re
version = re.findall(r"[0-9]+", importlib.metadata.version("torch"))
if (int(version[0]), int(version[1])) >= (2, 10):
    print(importlib.util.find_spec("torch").submodule_search_locations[0])
"""


if int(setuptools.__version__.split(".")[0]) < OLDEST_SETUPTOOLS:  # possible with --no-build-isolation only
    sys.exit(
        f"error: expected setuptools >= {OLDEST_SETUPTOOLS}, found {setuptools.__version__}; "
        f"run: pip install 'setuptools>={OLDEST_SETUPTOOLS}' ninja"
    )


def candidate_interpreters() -> Iterator[str]:
    """Interpreters whose torch may be used: of the environments that this build is most likely for."""
    # pip runs the build with the target's own interpreter and hides the target's packages through PYTHONPATH.
    yield sys.executable
    # python -m build and uv run it in a new environment; the target is the active one, the caller's, or ./.venv.
    caller = Path("/proc", str(os.getppid()))
    program, variables = "", dict(os.environ)
    try:
        program = (caller / "cmdline").read_text().split("\0")[0]
        variables |= dict(entry.split("=", 1) for entry in (caller / "environ").read_text().split("\0") if "=" in entry)
    except (OSError, UnicodeError):
        pass  # no such folder on this system, or not ours to read
    if Path(program).name.startswith("python"):
        yield shutil.which(program) or str((caller / "cwd").resolve() / program)
    for environment in (variables.get("VIRTUAL_ENV"), variables.get("CONDA_PREFIX"), ".venv"):
        if environment:
            yield f"{environment}/bin/python"


def installed_torch() -> str | None:
    """Folder of an installed torch >= 2.10, or None; a fresh interpreter, free of the isolated build's paths, knows."""
    if "PATCHSWAP_TORCH" in os.environ:
        return os.environ["PATCHSWAP_TORCH"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    for interpreter in dict.fromkeys(candidate_interpreters()):
        try:
            answer = subprocess.run([interpreter, "-c", QUERY], env=environment, capture_output=True, text=True)
        except OSError:
            continue
        if answer.returncode == 0 and answer.stdout.strip():
            return answer.stdout.strip()
    return None


def builds_library() -> bool:
    """As in setup.py."""
    return os.environ.get("PATCHSWAP_NO_LIBRARY", "0") in ("", "0")


def torch_requirement() -> list[str]:
    return [] if not builds_library() or installed_torch() else [REQUIREMENT]


def prepare_build() -> None:
    """Name the torch to setup.py, and drop the modules of earlier builds: setuptools would pack deleted ones again."""
    if builds_library() and (torch := installed_torch()):
        os.environ["PATCHSWAP_TORCH"] = torch
    for folder in Path("build").glob("lib*"):
        shutil.rmtree(folder)


def get_requires_for_build_wheel(config_settings=None):
    return build_meta.get_requires_for_build_wheel(config_settings) + torch_requirement()


def get_requires_for_build_editable(config_settings=None):
    return build_meta.get_requires_for_build_editable(config_settings) + torch_requirement()


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    prepare_build()
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    prepare_build()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
