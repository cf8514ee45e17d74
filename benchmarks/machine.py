"""Where a measurement was made, for the results."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import patchswap


def describe(device: str, command: str) -> dict[str, Any]:
    """Machine, versions, date and command. Says nothing that names a person or a folder."""
    packages = {}
    for name in ("torch", "numpy", "faiss-cpu"):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    result: dict[str, Any] = {
        "command": command,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _cpu_name(),
        "instruction_set": _instruction_set(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": packages,
        "patchswap": {name: fact for name, fact in patchswap.build_info().items() if name != "extension_error"},
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        result["gpu"] = {
            "name": properties.name,
            "count": torch.cuda.device_count(),
            "compute_capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            **_driver(),
        }
    return result


def command_line(program: str) -> str:
    return " ".join(["python", program, *sys.argv[1:]])


def processor_seconds() -> float:
    """Processor time that all programs have used since the machine started."""
    user, nice, system, _, _, interrupt, soft_interrupt, stolen = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + interrupt + soft_interrupt + stolen) / os.sysconf("SC_CLK_TCK")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _instruction_set() -> str:
    """The widest that torch uses; the same name of a CPU can stand for machines with and without it."""
    bfloat16 = " with bfloat16" if torch.cpu._is_avx512_bf16_supported() else ""
    return torch.backends.cpu.get_cpu_capability() + bfloat16


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    if not shutil.which("git"):
        return None
    result = subprocess.run(command, capture_output=True, text=True)
    return result.stdout.strip() or None


def _driver() -> dict[str, str]:
    """Driver version and clocks as they are at this moment; nothing is set."""
    if not shutil.which("nvidia-smi"):
        return {}
    fields = ["driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit"]
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "--id=0"]
    result = subprocess.run(command, capture_output=True, text=True)
    values = [value.strip() for value in result.stdout.strip().split(",")]
    return dict(zip(fields, values, strict=True)) if len(values) == len(fields) else {}
