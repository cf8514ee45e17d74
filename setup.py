"""Builds patchswap._C: one library for CPU and, where nvcc exists, CUDA; for every torch >= 2.10 and Python >= 3.10."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CUDA_ARCHITECTURES = "7.5 8.0 8.6 8.9 9.0a 10.0 12.0+PTX"
MACROS = ["-DTORCH_TARGET_VERSION=0x020a000000000000"]  # torch 2.10


def find_torch() -> str:
    """Folder of the torch whose headers and libraries are used: the build backend's choice, else this interpreter's."""
    spec = importlib.util.find_spec("torch")
    folder = os.environ.get("PATCHSWAP_TORCH") or (spec and spec.submodule_search_locations[0])
    if not folder or not Path(folder, "include/torch/csrc/stable/c/shim.h").exists():
        sys.exit(f"error: expected torch >= 2.10, found {folder or 'no torch'}; run: pip install 'torch>=2.10'")
    return folder


def find_nvcc() -> str | None:
    """Path of nvcc. It decides whether CUDA kernels are built; whether a GPU is visible does not."""
    if os.environ.get("PATCHSWAP_CPU_ONLY", "0") != "0":
        return None
    home = os.environ.get("CUDA_HOME")
    return (home and shutil.which(f"{home}/bin/nvcc")) or shutil.which("nvcc")


def architecture_flags(nvcc: str) -> list[str]:
    """nvcc's flags for TORCH_CUDA_ARCH_LIST; by default for each of CUDA_ARCHITECTURES that this nvcc knows."""
    chosen = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split()
    known = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True).stdout.split()
    flags = []
    for entry in chosen or CUDA_ARCHITECTURES.split():
        number = entry.removesuffix("+PTX").replace(".", "")
        if chosen or f"sm_{number.rstrip('a')}" in known:
            codes = f"sm_{number},compute_{number}" if entry.endswith("+PTX") else f"sm_{number}"
            flags.append(f"-gencode=arch=compute_{number},code=[{codes}]")
    return flags


def run(steps: list[tuple[str, list[str], list[str]]], ninja_file: Path) -> bool:
    """Run (output, inputs, command) steps: with ninja in parallel and only what changed, else one after the other."""
    ninja_file.parent.mkdir(parents=True, exist_ok=True)
    if not (ninja := shutil.which("ninja")):
        return all(subprocess.call(command) == 0 for _, _, command in steps)
    rules = f"builddir = {ninja_file.parent}\nrule run\n  command = $run\n  depfile = $out.d\n  deps = gcc\n"
    for output, inputs, command in steps:
        rules += f"build {output}: run {' '.join(inputs)}\n  run = {shlex.join(command).replace('$', '$$')}\n"
    ninja_file.write_text(rules)
    jobs = os.environ.get("MAX_JOBS", os.cpu_count())
    return subprocess.call([ninja, "-v", f"-j{jobs}", "-f", str(ninja_file)]) == 0


class BuildLibrary(build_ext):
    """Calls the C++ compiler and nvcc itself, as torch's own helper refuses nvcc where torch is a CPU build."""

    def build_extension(self, extension: Extension) -> None:
        torch, nvcc, compiler = find_torch(), find_nvcc(), os.environ.get("CXX", "g++").split()
        if not shutil.which(compiler[0]):
            sys.exit(f"error: found no C++ compiler {compiler[0]}; on Debian and Ubuntu: apt install build-essential")
        cuda = [nvcc, "-ccbin", compiler[-1], "--no-device-link", *architecture_flags(nvcc)] if nvcc else []
        kernels = " ".join(cuda) or "none, CPU only: no nvcc in CUDA_HOME or on PATH, or PATCHSWAP_CPU_ONLY set"
        print("patchswap: torch", torch, "\npatchswap: C++ ", *compiler, "\npatchswap: CUDA", kernels, flush=True)

        include = ["-Icsrc", f"-I{torch}/include"]
        common = ["-O3", "-std=c++20", "-MMD", "-c", *MACROS, *include, *(["-DPATCHSWAP_CUDA"] if cuda else [])]
        compilers = {".cpp": [*compiler, *common, "-Wall", "-fPIC", "-fvisibility=hidden"]}
        if cuda:
            hopper = ["-DPATCHSWAP_WGMMA"] if any("compute_90a" in flag for flag in cuda) else []
            compilers[".cu"] = [*cuda, *common, *hopper, "-Xcompiler=-fPIC,-fvisibility=hidden"]
        # libtorch.so stays linked, used or not: where torch has CUDA it leads to the weak stream getter at run time.
        options = ["-Xlinker", "--no-as-needed", "-Xlinker", "--exclude-libs=ALL", f"-L{torch}/lib"]

        folder, library, steps = Path(self.build_temp), self.get_ext_fullpath(extension.name), []
        for source in sorted(path for path in Path("csrc").rglob("*") if path.suffix in compilers):
            files = [str(source), "-o", f"{folder / source.name}.o", "-MF", f"{folder / source.name}.o.d"]
            steps.append((files[2], files[:1], [*compilers[source.suffix], *files]))
        objects = [output for output, _, _ in steps]
        link = [*(cuda or compiler), "-shared", "-o", library, *objects, *options, "-ltorch", "-ltorch_cpu"]
        if not run([*steps, (library, objects, link)], folder / "build.ninja"):
            sys.exit("error: patchswap's library did not compile; the failing command and its message stand above")


setup(
    ext_modules=[Extension("patchswap._C", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": BuildLibrary},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
