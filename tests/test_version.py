"""One version, wherever it is written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
from click.testing import CliRunner

import inpaint
import patchswap
from inpaint.commands import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent


def test_all_files_name_the_same_version() -> None:
    version = patchswap.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert inpaint.__version__ == patchswap.build_info()["version"] == version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = dict(re.findall(r"^([\w-]+): (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE))
    releases = re.findall(r"^## (\d\S*) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert project["version"] == citation["version"] == version
    assert releases[0] == (version, citation["date-released"])
    assert [date for _, date in releases] == sorted((date for _, date in releases), reverse=True)


def test_the_command_prints_the_installed_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert isinstance(main, click.Group) and result.output.split()[-1] == patchswap.__version__


def test_importing_inpaint_does_not_import_torch() -> None:
    code = "import inpaint, sys; assert 'torch' not in sys.modules; inpaint.__version__"
    subprocess.run([sys.executable, "-c", code], check=True)
