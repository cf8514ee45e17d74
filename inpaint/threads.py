"""How many processors this process may use: by its affinity and by the CPU quota of its container."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")  # lines "number:controllers:path"; version 2 has no controllers


def set_threads(threads: int | None = None) -> None:
    """Lets torch use so many threads; by default no more than there are processors for this process.

    What the environment says, such as OMP_NUM_THREADS, is kept where it is less.
    """
    torch.set_num_threads(threads or min(torch.get_num_threads(), available_processors()))


def available_processors() -> int:
    """Processors that this process may keep busy, at least 1."""
    allowed = quota()
    return max(1, affinity() if allowed is None else min(affinity(), math.ceil(allowed)))


def affinity() -> int:
    """Processors that this process may run on; all that there are where the system cannot tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota() -> float | None:
    """Processors whose time the control groups of this process allow it; None where they do not limit it."""
    return min(_quotas(), default=None)


def _quotas() -> Iterator[float]:
    """The quotas, in processors, of the control groups of this process and of those around them."""
    try:
        lines = OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Inside a container the path may be the one outside of it; the container's own group is then the root.
        own = [CGROUPS / controllers, CGROUPS / "cpu"] if controllers else [CGROUPS]
        for root in own:
            group = root / path.strip("/")
            for folder in [group, *group.parents]:
                quota = _quota(folder)
                if quota is not None:
                    yield quota
                if folder == root:
                    break


def _quota(folder: Path) -> float | None:
    """The quota of one control group of version 2 or 1; None where it has none."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((folder / name).read_text(encoding="utf-8") for name in names).split()
            if int(quota) > 0 and int(period) > 0:
                return int(quota) / int(period)
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return None
