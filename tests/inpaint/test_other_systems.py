"""Windows and macOS, as far as Linux can simulate them; docs/install.md says what was never run."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest

import inpaint
import patchswap
from inpaint import memory, threads
from inpaint.commands.places import default_path

PROGRAM = Path(__file__).parent / "another_system.py"


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_commands_run_without_what_linux_alone_has(system: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PATCHSWAP_NO_LIBRARY": "1", "PYTHONSAFEPATH": "1"}
    options = ["-X", "warn_default_encoding", "-W", "ignore"]
    answer = subprocess.run(
        [sys.executable, *options, PROGRAM, system, tmp_path], env=environment, capture_output=True, encoding="utf-8"
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)
    assert {"inpaint.commands.train", "inpaint.training.trainer", "patchswap.ops"} <= set(found["modules"])
    assert found["known pixels are kept"] and found["hole is filled"] and found["overwritten"]
    assert found["photographs in results"] == 2 and found["left behind"] == [] and found["library"] == "not wanted"
    assert found["threads"]["affinity"] == os.cpu_count() and found["threads"]["quota"] is None
    assert found["free_memory"] > 2**28


def test_names_follow_a_path_of_windows() -> None:
    photograph: Any = PureWindowsPath(r"C:\Bilder\Größe 1\katze.JPG")
    assert default_path(photograph, "filled") == PureWindowsPath(r"C:\Bilder\Größe 1\katze_filled.JPG")
    assert default_path(photograph, "mask", ".png") == PureWindowsPath(r"C:\Bilder\Größe 1\katze_mask.png")


def test_without_control_groups_all_processors_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(threads, "OWN_CGROUPS", tmp_path / "none")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert threads.available_processors() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert threads.available_processors() == 1


def test_every_text_file_has_an_encoding() -> None:
    """Without one, Windows takes its own."""
    seen, without = 0, []
    for package in (inpaint, patchswap):
        folder = Path(package.__path__[0])
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and opens_text(node):
                    seen += 1
                    if not any(keyword.arg == "encoding" for keyword in node.keywords):
                        without.append(f"{path.relative_to(folder)}:{node.lineno}: {ast.unparse(node)}")
    assert seen > 5 and without == []


def opens_text(call: ast.Call) -> bool:
    """Whether a call reads or writes a text file by functions of Python; of pathlib's open() only with a mode."""
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    if name == "open":
        modes = [*call.args[int(owner is None) :][:1], *(word.value for word in call.keywords if word.arg == "mode")]
        mode = modes[0].value if modes and isinstance(modes[0], ast.Constant) else "r" if owner is None else None
        return isinstance(mode, str) and set(mode) <= set("rwax+")
    is_own = isinstance(owner, ast.Name) and owner.id in ("distribution", "report")  # whose files are in UTF-8
    return owner is not None and name in ("read_text", "write_text") and not is_own


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("open(path)", True),
        ("open(path, 'rb')", False),
        ("open(path, mode='xb')", False),
        ("open(path, mode='x')", True),
        ("path.open('w')", True),
        ("path.open('rb')", False),
        ("photograph.open()", False),
        ("tarfile.open(path, mode='r:')", False),
        ("path.read_text()", True),
        ("report.write_text(path, text)", False),
        ("Image.open(path)", False),
    ],
)
def test_calls_that_open_text_are_known(code: str, expected: bool) -> None:
    (statement,) = ast.parse(code).body
    assert isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
    assert opens_text(statement.value) is expected


def test_memory_is_guessed_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path, *arguments: object, **options: object) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    assert memory.free_memory(memory.torch.device("cpu")) > 2**28  # by sysconf
    monkeypatch.delattr(os, "sysconf_names", raising=False)
    monkeypatch.delattr(os, "sysconf", raising=False)
    assert memory.free_memory(memory.torch.device("cpu")) == 4 << 30


@pytest.mark.parametrize("version", [1, 2])
def test_memory_that_a_container_uses_for_files_is_free(version: int, monkeypatch, tmp_path: Path) -> None:
    """The system gives it up where it is asked for memory."""
    limit, used, statistics = (tmp_path / name for name in ("limit", "used", "memory.stat"))
    limit.write_text("1000000\n", encoding="utf-8")
    used.write_text("990000\n", encoding="utf-8")
    name = "total_inactive_file" if version == 1 else "inactive_file"
    statistics.write_text(f"anon 1000\n{name} 900000\nactive_file 5\n", encoding="utf-8")
    monkeypatch.setattr(memory, "_CGROUPS", ((str(limit), str(used)),))
    assert memory.free_memory(memory.torch.device("cpu")) == 910000
    statistics.unlink()
    assert memory.free_memory(memory.torch.device("cpu")) == 10000
