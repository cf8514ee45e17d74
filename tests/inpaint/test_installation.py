"""``inpaint info``: complete, true, and of use where something is wrong."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import PIL
import pytest
import tifffile
import torch
from click.testing import CliRunner

import patchswap
from inpaint import installation, threads, weights
from inpaint.commands import main


def printed(*options: str) -> str:
    result = CliRunner().invoke(main, ["info", *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_it_names_what_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("INPAINT_PASSWORD", "secret")
    report = json.loads(printed("--json"))
    assert report["inpaint"] == patchswap.__version__
    assert report["python"].startswith(platform.python_version()) and report["platform"] == platform.platform()
    versions = {"torch": torch, "numpy": np, "pillow": PIL, "tifffile": tifffile}
    assert {name: report["packages"][name] for name in versions} == {
        name: module.__version__ for name, module in versions.items()
    }
    assert report["patchswap"] == json.loads(json.dumps(patchswap.build_info()))
    assert report["cpu"]["name"] and report["cpu"]["instructions"] == patchswap.build_info()["cpu_kernel"]
    assert report["threads"]["affinity"] == threads.affinity() and report["threads"]["torch"] == torch.get_num_threads()
    assert report["gpu"]["mps"] == torch.backends.mps.is_available() and report["free_memory"] > 0
    assert len(report["gpu"]["devices"]) == torch.cuda.device_count()
    assert report["environment"]["OMP_NUM_THREADS"] == "7" and "secret" not in json.dumps(report)

    present = {entry["name"]: entry for entry in report["weights"]}
    listed = weights.checksums()
    assert {"default", "VGG-19"} <= set(present)
    for entry in present.values():
        assert "problem" not in entry and entry["bytes"] > 100_000
        assert entry["sha256"] == listed[Path(entry["file"]).name]
    assert present["default"]["card"]


def test_the_text_holds_what_the_object_holds() -> None:
    text = " ".join(printed().split())

    def check(value: object) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                assert key in text
                check(item)
        elif isinstance(value, list):
            for item in value:
                check(item)
        elif value is not None and not isinstance(value, str) and not isinstance(value, float):
            assert str(value) in text
        elif isinstance(value, str):
            assert " ".join(value.split()) in text

    report = json.loads(printed("--json"))
    del report["free_memory"]  # which changes between the two
    check(report)


def test_extras_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    found = installation.extras()
    assert {"eval", "formats", "onnx", "train"} <= set(found) and not {"bench", "dev", "docs"} & set(found)
    assert set(found["formats"]) == {"imagecodecs", "jpeglib", "pillow-heif"}
    for packages in found.values():
        for name, version in packages.items():
            if version is None:
                with pytest.raises(metadata.PackageNotFoundError):
                    metadata.version(name)
            else:
                assert metadata.version(name) == version
    monkeypatch.setattr(metadata, "requires", lambda name: ['no-such_package>=1,<2; extra == "train"', "numpy"])
    assert installation.extras() == {"train": {"no-such_package": None}}


def test_a_source_tree_without_installation_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    monkeypatch.setattr(metadata, "version", missing)
    report = installation.describe()
    assert report["extras"] == {} and set(report["packages"].values()) == {None}
    assert report["inpaint"] == patchswap.__version__


def test_damaged_weights_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for path in weights.FOLDER.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "default.safetensors").write_bytes(b"short")
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    assert "the file is damaged, install the package again" in printed()


def test_without_the_library_it_says_why() -> None:
    environment = {**os.environ, "PATCHSWAP_NO_LIBRARY": "1"}
    answer = subprocess.run(
        [sys.executable, "-m", "inpaint", "info", "--json"], env=environment, capture_output=True, text=True, check=True
    )
    report = json.loads(answer.stdout)
    assert report["patchswap"]["extension"] is False and report["patchswap"]["extension_cause"] == "not wanted"
    assert "PATCHSWAP_NO_LIBRARY is set" in report["patchswap"]["extension_error"]
    assert report["environment"]["PATCHSWAP_NO_LIBRARY"] == "1" and report["cpu"]["instructions"] == "reference"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a program in front of all others."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def write(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)

    return write


def test_the_driver_is_asked(program: Callable[[str, str], None]) -> None:
    program("nvidia-smi", 'echo "550.54.15, NVIDIA H100"\necho "550.54.15, NVIDIA L4"')
    assert installation.gpu()["driver"] == "550.54.15, NVIDIA H100; 550.54.15, NVIDIA L4"
    program("nvidia-smi", "echo no driver; exit 9")
    assert installation.gpu()["driver"] is None


def test_the_processor_has_a_name_on_every_system(
    program: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A CPU: two\n", encoding="utf-8")
    monkeypatch.setattr(installation, "CPU_INFO", tmp_path / "cpuinfo")
    assert installation.cpu_name() == "A CPU: two"
    monkeypatch.setattr(installation, "CPU_INFO", tmp_path / "none")
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert installation.cpu_name() == "unknown"
    monkeypatch.setattr(sys, "platform", "darwin")
    program("sysctl", 'echo "$*, Apple M4"')
    assert installation.cpu_name() == "-n machdep.cpu.brand_string, Apple M4"
