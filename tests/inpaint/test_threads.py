"""Threads follow affinity and quota."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from inpaint import threads


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Control groups of a process whose affinity is eight processors."""
    monkeypatch.setattr(threads, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(threads, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    return tmp_path


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text)


def test_the_affinity_counts(groups: Path) -> None:
    assert threads.available_processors() == 8


@pytest.mark.parametrize(
    ("limit", "expected"), [("250000 100000\n", 3), ("50000 100000\n", 1), ("max 100000\n", 8), ("odd\n", 8), ("", 8)]
)
def test_the_quota_of_version_2_counts(groups: Path, limit: str, expected: int) -> None:
    (groups / "own").write_text("0::/user.slice/mine\n")
    write(groups / "cgroup" / "user.slice" / "mine", cpu_max=limit)
    assert threads.available_processors() == expected


def test_the_quota_of_a_group_around_counts(groups: Path) -> None:
    (groups / "own").write_text("0::/user.slice/mine\n")
    write(groups / "cgroup" / "user.slice" / "mine", cpu_max="max 100000")
    write(groups / "cgroup" / "user.slice", cpu_max="400000 100000")
    assert threads.available_processors() == 4
    write(groups / "cgroup", cpu_max="200000 100000")
    assert threads.available_processors() == 2


@pytest.mark.parametrize("folder", ["cpu,cpuacct/docker/abc", "cpu/docker/abc", "cpu"])
def test_the_quota_of_version_1_counts(groups: Path, folder: str) -> None:
    (groups / "own").write_text("12:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n")
    write(groups / "cgroup" / folder, cpu_cfs_quota_us="150000\n", cpu_cfs_period_us="50000\n")
    assert threads.available_processors() == 3
    write(groups / "cgroup" / folder, cpu_cfs_quota_us="-1\n")
    assert threads.available_processors() == 8


def test_torch_gets_that_many_threads(groups: Path) -> None:
    before = torch.get_num_threads()
    try:
        threads.set_threads(2)
        assert torch.get_num_threads() == 2
        threads.set_threads()
        assert torch.get_num_threads() == 2  # it is not raised
        (groups / "own").write_text("0::/\n")
        write(groups / "cgroup", cpu_max="100000 100000")
        threads.set_threads()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
