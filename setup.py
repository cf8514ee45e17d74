"""Builds patchswap._C: one library for CPU and, where nvcc exists, CUDA; for every torch >= 2.10 and Python >= 3.10."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.egg_info import egg_info

CUDA_ARCHITECTURES = "7.5 8.0 8.6 8.9 9.0a 10.0 12.0+PTX"
MACROS = ["-DTORCH_TARGET_VERSION=0x020a000000000000"]  # torch 2.10
OLDEST_NVCC, OLDEST_GCC = 12, 11  # the first that know the C++20 of csrc
# The kernels for capability 9.0 need instructions that nvcc knows by this name alone. No kernel needs those of 10.0a.
FULL_NAMES = {"9.0": "9.0a"}
WITHOUT_CUDA = "or build without CUDA kernels: PATCHSWAP_CPU_ONLY=1"


def is_set(variable: str) -> bool:
    """Whether an environment variable switches something on."""
    return os.environ.get(variable, "0") not in ("", "0")


def refuse(expected: str, found: str, remedy: str) -> None:
    """End the build with one sentence."""
    sys.exit(f"error: expected {expected}, found {found}; {remedy}")


def answer_of(*command: str) -> str:
    """What a tool writes, or "" where it does not run."""
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout
    except OSError:
        return ""


def find_torch() -> str:
    """Folder of the torch whose headers and libraries are used: the build backend's choice, else this interpreter's."""
    spec = importlib.util.find_spec("torch")
    folder = os.environ.get("PATCHSWAP_TORCH") or (spec and spec.submodule_search_locations[0])
    if not folder or not Path(folder, "include/torch/csrc/stable/c/shim.h").exists():
        refuse("torch >= 2.10", folder or "no torch", "run: pip install 'torch>=2.10'")
    return folder


def find_compiler() -> tuple[list[str], list[str]]:
    """The programs in CXX, such as ["ccache", "g++"], and the options after them followed by those in CXXFLAGS."""
    words = shlex.split(os.environ.get("CXX") or "g++")
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    programs, options = words[:count], words[count:]
    if not programs or not shutil.which(programs[0]):
        refuse("a C++ compiler", f"no {(programs or words)[0]}", "on Debian and Ubuntu: apt install build-essential")
    macros = answer_of(*programs, "-dM", "-E", "-x", "c++", os.devnull)
    version = re.search(r"__GNUC__ (\d+)", macros)
    if version and "__clang__" not in macros and int(version[1]) < OLDEST_GCC:
        found = f"version {version[1]} ({programs[-1]})"
        refuse(f"g++ {OLDEST_GCC} or newer", found, "name another compiler in CXX, as in CXX=g++-12")
    return programs, [*options, *shlex.split(os.environ.get("CXXFLAGS", ""))]


def find_nvcc() -> str | None:
    """Path of nvcc. It decides whether CUDA kernels are built; whether a GPU is visible does not."""
    if is_set("PATCHSWAP_CPU_ONLY"):
        return None
    home = os.environ.get("CUDA_HOME")
    nvcc = (home and shutil.which(f"{home}/bin/nvcc")) or shutil.which("nvcc")
    if nvcc:
        version = re.search(r"release (\d+)\.(\d+)", answer_of(nvcc, "--version"))
        if not version or int(version[1]) < OLDEST_NVCC:
            found = f"version {version[1]}.{version[2]} ({nvcc})" if version else f"no version in the answer of {nvcc}"
            refuse(f"nvcc {OLDEST_NVCC} or newer", found, f"name a newer toolkit in CUDA_HOME, {WITHOUT_CUDA}")
    return nvcc


def architectures(nvcc: str) -> list[str]:
    """Of TORCH_CUDA_ARCH_LIST, by default those of CUDA_ARCHITECTURES that this nvcc knows: as in ["9.0a", "12.0+PTX"].

    A capability of FULL_NAMES stands for its full name, with the PTX of the short one, which later GPUs can run.
    """
    known = re.findall(r"sm_(\d+)", answer_of(nvcc, "--list-gpu-code"))
    chosen = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split()
    entries = []
    for entry in chosen or CUDA_ARCHITECTURES.split():
        if not (parts := re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", entry)):
            expected = 'compute capabilities in TORCH_CUDA_ARCH_LIST, such as "8.6 9.0+PTX"'
            refuse(expected, f'"{entry}"', 'name its capability instead: Ampere is "8.0 8.6", Ada "8.9", Hopper "9.0"')
        if parts[1] + parts[2] in known:
            name = f"{parts[1]}.{parts[2]}"
            entries.append((FULL_NAMES.get(name, name) if not parts[3] else name + parts[3]) + (parts[4] or ""))
        elif chosen:
            listed = ", ".join(f"{number[:-1]}.{number[-1]}" for number in known)
            refuse(f"capabilities that {nvcc} knows ({listed})", entry, "take it out of TORCH_CUDA_ARCH_LIST")
    return list(dict.fromkeys(entries))


def architecture_flags(names: list[str]) -> list[str]:
    """nvcc's flags for capabilities as `architectures` names them."""
    flags = []
    for name in names:
        full = name.removesuffix("+PTX").replace(".", "")
        short = full.rstrip("af")
        both = name.endswith("+PTX") and full == short
        flags.append(f"-gencode=arch=compute_{full},code=" + (f"[sm_{full},compute_{full}]" if both else f"sm_{full}"))
        if name.endswith("+PTX") and full != short:
            flags.append(f"-gencode=arch=compute_{short},code=compute_{short}")
    return flags


def through_nvcc(options: list[str]) -> list[str]:
    """Options for the host compiler as nvcc passes them on."""
    return ["-Xcompiler=" + option.replace(",", r"\,") for option in options]


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
        if not sys.platform.startswith("linux"):
            remedy = "PATCHSWAP_NO_LIBRARY=1 pip install . installs plain torch code, many times slower"
            refuse("Linux, for which the compiled library is written", sys.platform, remedy)
        torch, (compiler, options), nvcc = find_torch(), find_compiler(), find_nvcc()
        names = architectures(nvcc) if nvcc else []
        cuda = [nvcc, "-ccbin", compiler[-1], "--no-device-link", *architecture_flags(names)] if nvcc else []
        kernels = " ".join(cuda) or "none, CPU only: no nvcc in CUDA_HOME or on PATH, or PATCHSWAP_CPU_ONLY set"
        print("patchswap: torch", torch, "\npatchswap: C++ ", *compiler, "\npatchswap: CUDA", kernels, flush=True)

        effort = ["-O0", "-g"] if is_set("DEBUG") else ["-O3"]
        # Messages of torch's headers name their file: without the folder of this machine, which no other build shares.
        include = ["-Icsrc", f"-I{torch}/include"]
        options = [f"-ffile-prefix-map={torch}/include/=", *options]
        common = [*effort, "-std=c++20", "-MMD", "-c", *MACROS, *include, *(["-DPATCHSWAP_CUDA"] if cuda else [])]
        # Contracted wherever the machine can, which is GCC's default: so the CPU searches agree bit for bit.
        own = ["-ffp-contract=fast", "-Wall", "-fPIC", "-fvisibility=hidden"]
        about = [f'-DPATCHSWAP_CUDA_ARCHITECTURES="{",".join(names)}"']
        compilers = {".cpp": [*compiler, *common, *own, *about, *options]}
        if cuda:
            device = ["-DPATCHSWAP_WGMMA"] if any(name.startswith("9.0a") for name in names) else []
            device += ["-lineinfo"] if is_set("DEBUG") else []
            compilers[".cu"] = [*cuda, *common, *device, "-Xcompiler=-fPIC,-fvisibility=hidden", *through_nvcc(options)]
        # libtorch.so stays linked, used or not: where torch has CUDA it leads to the weak stream getter at run time.
        needed = ["-Xlinker", "--no-as-needed", "-Xlinker", "--exclude-libs=ALL", f"-L{torch}/lib"]
        wanted = [*options, *shlex.split(os.environ.get("LDFLAGS", ""))]
        linker = [*cuda, *through_nvcc(wanted)] if cuda else [*compiler, *wanted]

        folder, library, steps = Path(self.build_temp), self.get_ext_fullpath(extension.name), []
        for source in sorted(path for path in Path("csrc").rglob("*") if path.suffix in compilers):
            files = [str(source), "-o", f"{folder / source.name}.o", "-MF", f"{folder / source.name}.o.d"]
            steps.append((files[2], files[:1], [*compilers[source.suffix], *files]))
        objects = [output for output, _, _ in steps]
        link = [*linker, "-shared", "-o", library, *objects, *needed, "-ltorch", "-ltorch_cpu"]
        if not run([*steps, (library, objects, link)], folder / "build.ninja"):
            remedy = (
                f"; where nvcc refuses {compiler[-1]}, name another compiler in CXX, {WITHOUT_CUDA}" if cuda else ""
            )
            sys.exit(
                f"error: patchswap's library did not compile; the failing command and its message stand above{remedy}"
            )


class NameVersion(egg_info):
    """Adds PATCHSWAP_LOCAL_VERSION after a "+" to the version, which tells builds of one release apart (PEP 440)."""

    def finalize_options(self) -> None:
        if local := os.environ.get("PATCHSWAP_LOCAL_VERSION"):
            self.tag_build = f"+{local}"
        super().finalize_options()


if is_set("PATCHSWAP_NO_LIBRARY"):
    setup(cmdclass={"egg_info": NameVersion})  # plain torch code, for every system
else:
    setup(
        ext_modules=[Extension("patchswap._C", sources=[], py_limited_api=True)],
        cmdclass={"build_ext": BuildLibrary, "egg_info": NameVersion},
        options={"bdist_wheel": {"py_limited_api": "cp310"}},
    )
