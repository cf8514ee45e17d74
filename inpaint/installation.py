"""What a bug report needs: versions, the machine, why the compiled library is loaded or not, and the weights."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import patchswap
from inpaint import memory, threads, weights
from inpaint.errors import InpaintError
from inpaint.tensor_file import read_tensors

PACKAGES = ("torch", "numpy", "pillow", "safetensors", "tifffile", "click")
CPU_INFO = Path("/proc/cpuinfo")
_FOR_CONTRIBUTORS = ("bench", "dev", "docs")  # extras
_REQUIREMENT = re.compile(r"([\w.-]+)[^;]*; *extra == [\"']([\w-]+)[\"']")  # of an extra, on every system and Python
# That change what runs or how fast. None of them holds a secret.
VARIABLES = (
    "PATCHSWAP_NO_LIBRARY",
    "PATCHSWAP_CPU_KERNEL",
    "PATCHSWAP_LOG",
    "INPAINT_LPIPS_WEIGHTS",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "OMP_PROC_BIND",
    "OMP_PLACES",
    "GOMP_CPU_AFFINITY",
    "KMP_AFFINITY",
    "MKL_NUM_THREADS",
    "ATEN_CPU_CAPABILITY",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_HOME",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ENABLE_MPS_FALLBACK",
    "TORCH_CUDA_ARCH_LIST",
    "PYTHONPATH",
    "PYTHONSAFEPATH",
    "PYTHONUTF8",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LANG",
    "LC_ALL",
)


def describe() -> dict[str, Any]:
    """Everything, as JSON can hold it.

    Keys: inpaint, python, platform, packages, extras (of each its packages, None where one is missing), cpu, threads,
    free_memory (bytes), gpu, patchswap (``patchswap.build_info``), weights, environment.
    """
    return {
        "inpaint": patchswap.__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        "packages": {name: version_of(name) for name in PACKAGES},
        "extras": extras(),
        "cpu": {
            "name": cpu_name(),
            "architecture": platform.machine(),
            "instructions": patchswap.build_info()["cpu_kernel"],
            "instructions of torch": torch.backends.cpu.get_cpu_capability(),
        },
        "threads": {
            "torch": torch.get_num_threads(),
            "processors": os.cpu_count(),
            "affinity": threads.affinity(),
            "quota": threads.quota(),
        },
        "free_memory": memory.free_memory(torch.device("cpu")),
        "gpu": gpu(),
        "patchswap": patchswap.build_info(),
        "weights": weights_present(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def version_of(package: str) -> str | None:
    """Of an installed distribution; None where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def extras() -> dict[str, dict[str, str | None]]:
    """The optional parts of the installed package for its users, and the versions of what they need."""
    try:
        requirements = metadata.requires("patchswap") or []
    except metadata.PackageNotFoundError:  # a bare source tree
        requirements = []
    found: dict[str, dict[str, str | None]] = {}
    for requirement in requirements:
        match = _REQUIREMENT.fullmatch(requirement)
        if match is not None and match[2] not in _FOR_CONTRIBUTORS:
            found.setdefault(match[2], {})[match[1]] = version_of(match[1])
    return found


def cpu_name() -> str:
    """As the system calls it."""
    try:
        for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    called = _answer_of("sysctl", "-n", "machdep.cpu.brand_string") if sys.platform == "darwin" else None
    return called or platform.processor() or "unknown"


def gpu() -> dict[str, Any]:
    """What the driver and torch say of GPUs; that one sees them and the other does not is a common fault."""
    cuda = torch.cuda.is_available()
    return {
        "driver": _answer_of("nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader"),
        "cuda of torch": torch.version.cuda,
        "devices": [_cuda_device(number) for number in range(torch.cuda.device_count() if cuda else 0)],
        "mps": torch.backends.mps.is_available(),
    }


def _cuda_device(number: int) -> str:
    facts = torch.cuda.get_device_properties(number)
    return f"cuda:{number} {facts.name}, compute capability {facts.major}.{facts.minor}, {facts.total_memory} bytes"


def _answer_of(*command: str) -> str | None:
    """What a program says, on one line; None where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        answer = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return "; ".join(answer.stdout.strip().splitlines()) or None


def weights_present() -> list[dict[str, Any]]:
    """The files of weights in the package: name, file, size, SHA-256 and model card, or what is wrong with one."""
    present = []
    for name, path in {**weights.named(), "VGG-19": weights.FOLDER / weights.VGG_FILE}.items():
        entry: dict[str, Any] = {"name": name, "file": str(path)}
        try:
            weights.check(path)
            entry |= {"bytes": path.stat().st_size, "sha256": weights.sha256(path)}
            card = read_tensors(path)[1].get("card", "")
            entry["card"] = [line for line in card.splitlines() if line.strip()]
        except InpaintError as error:
            entry["problem"] = str(error)
        present.append(entry)
    return present
