"""How much memory there is, and how much of the picture that is enough for at once."""

from __future__ import annotations

import os
from pathlib import Path

import torch

SHARE = 0.5  # of the free memory that is used by default
BYTES_PER_PIXEL = 400  # of a part of a window, through all steps of its scale

_CGROUPS = (  # limit and use of a container, version 2 and 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated: on a GPU, or in the machine and its container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_free_in_machine(), *(_free_in_container(Path(limit), Path(used)) for limit, used in _CGROUPS))


def largest_part(device: torch.device, max_memory: float | None = None) -> float:
    """Pixels of a window at one scale that fit into ``max_memory`` bytes, by default half of what is free."""
    return (SHARE * free_memory(device) if max_memory is None else max_memory) / BYTES_PER_PIXEL


def _free_in_machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):  # not Linux
        names = getattr(os, "sysconf_names", {})
        pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in names else "SC_PHYS_PAGES"
        return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE") if pages in names else 4 << 30


def _free_in_container(limit: Path, used: Path) -> int:
    try:
        held = int(used.read_text(encoding="utf-8")) - _given_up(used.with_name("memory.stat"))
        return max(0, int(limit.read_text(encoding="utf-8")) - max(0, held))
    except (OSError, ValueError):  # no container, or no limit ("max")
        return 1 << 62


def _given_up(statistics: Path) -> int:
    """Bytes of a container's use that hold copies of files, which the system drops where memory is asked for."""
    try:
        fields = dict(line.split() for line in statistics.read_text(encoding="utf-8").splitlines())
        return int(fields.get("total_inactive_file") or fields["inactive_file"])  # version 1, or 2
    except (OSError, KeyError, ValueError):
        return 0
