"""Registers, shared memory, stack, spills and instructions of the CUDA kernels, for setup.py's architectures.

    python benchmarks/development/kernel_resources.py

Compiles csrc/cuda/*.cu to device code only and reads ptxas' report; needs nvcc, no GPU. Exit status 1 where a kernel
spills registers to memory, or ptxas says that it serialises wgmma instructions.

With cuobjdump (of the CUDA toolkit, or of the packages nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm) it also counts
the instructions of a step of the search for Hopper.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import tables

ROOT = Path(__file__).parents[2]
COMPILING = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
PROPERTIES = re.compile(r"Function properties for (\w+)")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+)(?:\+(\d+))? bytes smem")
LAUNCH = re.compile(r"\bstart(?:_early)?\((\w+)(?:<[\w, ]+>)?, [^;]*?, ([\w:]+), stream\b")
FUNCTION = re.compile(r"^\s*Function : (\w+)")
INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?([^;]+?) *;")
SERIALISED = re.compile(r"wgmma.* serialized")


@dataclass
class Kernel:
    """One compiled kernel. Sizes in bytes; shared memory is static and, for kernels launched with it, dynamic."""

    name: str
    architecture: str
    registers: int = 0
    shared: int = 0
    stack: int = 0
    spill_stores: int = 0
    spill_loads: int = 0


def find_nvcc() -> str | None:
    """As in setup.py."""
    home = os.environ.get("CUDA_HOME")
    return (home and shutil.which(f"{home}/bin/nvcc")) or shutil.which("nvcc")


def setup_strings(constant: str) -> list[str]:
    """The strings in a constant of setup.py, read without running it."""
    line = re.search(rf"^{constant} = (.*)", (ROOT / "setup.py").read_text(), re.MULTILINE)
    return re.findall(r'"([^"]*)"', line[1])


def architectures(nvcc: str) -> list[str]:
    """Of setup.py's list those that this nvcc knows, as in ["75", "90a"]."""
    known = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split()
    listed = setup_strings("CUDA_ARCHITECTURES")[0].replace("+PTX", "").replace(".", "").split()
    return [number for number in listed if f"sm_{number.rstrip('a')}" in known]


def compile_report(nvcc: str, source: Path, architecture: str, torch: Path, cubin: Path) -> str:
    """Compiles one source to `cubin`, and returns ptxas' report.

    RuntimeError with the compiler's message where it fails.
    """
    command = [nvcc, "-cubin", "-O3", "-std=c++20", "-Xptxas=-v", "-DPATCHSWAP_CUDA", "-DPATCHSWAP_WGMMA"]
    command += [*setup_strings("MACROS"), f"-gencode=arch=compute_{architecture},code=sm_{architecture}"]
    command += [f"-I{ROOT / 'csrc'}", f"-I{torch / 'include'}", str(source), "-o", str(cubin)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{source.name} does not compile for sm_{architecture}:\n{result.stderr}")
    return result.stdout + result.stderr


def parse(report: str) -> tuple[list[Kernel], list[str]]:
    """The kernels of ptxas' report, and its complaints.

    Functions that were not inlined are reported with the kernel in whose compilation they come; their stack and spills
    count as that kernel's.
    """
    kernels: list[Kernel] = []
    complaints = []
    for line in report.splitlines():
        if match := COMPILING.search(line):
            kernels.append(Kernel(match[1], match[2].removeprefix("sm_")))
        elif SERIALISED.search(line):
            complaints.append(line.strip())
        elif kernels and (match := FRAME.search(line)):
            stack, stores, loads = map(int, match.groups())
            kernels[-1].stack = max(kernels[-1].stack, stack)
            kernels[-1].spill_stores += stores
            kernels[-1].spill_loads += loads
        elif kernels and (match := USED.search(line)):
            kernels[-1].registers = int(match[1])
            if match := SHARED.search(line):
                kernels[-1].shared = int(match[1]) + int(match[2] or 0)
    return kernels, complaints


def demangle(kernels: list[Kernel]) -> None:
    if tool := shutil.which("c++filt"):
        names = "\n".join(kernel.name for kernel in kernels)
        readable = subprocess.run([tool], input=names, capture_output=True, text=True, check=True).stdout.splitlines()
        for kernel, name in zip(kernels, readable, strict=True):
            kernel.name = name


def short_name(name: str) -> str:
    """ "void patchswap::run<patchswap::Fold<3, float> >(...)" -> "Fold<3, float>"; other kernels by their own name."""
    name = name.replace("(anonymous namespace)::", "").replace("c10::", "").replace("patchswap::", "")
    name = re.sub(r"\(\w+\)(?=\d)", "", name)  # (int)3 -> 3
    name = name.removeprefix("void ").removeprefix("static ")
    depth, end = 0, len(name)
    for position, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            end = position
            break
    name = name[:end].replace(" >", ">")
    return name.removeprefix("run<").removesuffix(">") if name.startswith("run<") else name


def dynamic_shared() -> dict[str, int]:
    """Bytes of shared memory that the launches in csrc/cuda/*.cu ask for, by the kernel's name.

    A launch reads start(kernel, blocks, threads, shared, stream, ...), where shared is a constant of the headers; its
    value is asked of the C++ compiler, which takes the headers with tests/cuda_emulation in place of a GPU.
    """
    folder = ROOT / "csrc" / "cuda"
    text = "\n".join(source.read_text() for source in sorted(folder.glob("*.cu")))
    launches = dict(LAUNCH.findall(text))
    if not launches:
        return {}
    included = "".join(
        f'#include "{name}"\n' for name in re.findall(r'#include "(\w+\.cuh)"', text) if name != "launch.cuh"
    )
    values = "".join(f'extern "C" const int {kernel}_bytes = {value};\n' for kernel, value in launches.items())
    with tempfile.TemporaryDirectory() as build:
        Path(build, "bytes.cpp").write_text(f"{included}using namespace patchswap;\n{values}")
        command = [*os.environ.get("CXX", "g++").split(), "-shared", "-fPIC", "-O1", "-std=c++20", "-w", f"-I{folder}"]
        command += [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests' / 'cuda_emulation'}", "bytes.cpp", "-o", "bytes.so"]
        subprocess.run(command, cwd=build, check=True)
        library = ctypes.CDLL(f"{build}/bytes.so")
        return {kernel: ctypes.c_int.in_dll(library, f"{kernel}_bytes").value for kernel in launches}


def measure(nvcc: str, torch: Path, wanted: list[str], jobs: int) -> tuple[list[Kernel], list[str]]:
    """All kernels of csrc/cuda for the wanted architectures, and ptxas' complaints."""
    work = [(source, number) for number in wanted for source in sorted((ROOT / "csrc" / "cuda").glob("*.cu"))]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        cubins = [Path(folder, f"{number}.cubin") for number in range(len(work))]
        reports = list(pool.map(lambda item, cubin: compile_report(nvcc, *item, torch, cubin), work, cubins))
    kernels, complaints = [], []
    for report in reports:
        found, said = parse(report)
        kernels += found
        complaints += said
    demangle(kernels)
    added = dynamic_shared()
    for kernel in kernels:
        kernel.shared += added.get(short_name(kernel.name).partition("<")[0], 0)
    return kernels, complaints


# ---- instructions


class Instruction(NamedTuple):
    address: int
    text: str  # without its predicate


@dataclass
class Step:
    """Instructions of a warp at one step of match_wgmma: the most of the copies of the step that the kernel has."""

    chunk: int  # for each chunk of channels, where chunks fill the stages
    looped_chunk: int  # for each chunk of channels otherwise
    sums: int  # from the last product to the barrier: sums over rows, and what other warps have to know
    score: int  # from the barrier to the vote on whether any threshold is reached


def find_cuobjdump() -> str | None:
    """On PATH, in CUDA_HOME, or of the Python packages."""
    packages = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")} | set(sys.path)
    places = [os.environ.get("PATH", ""), os.path.join(os.environ.get("CUDA_HOME", ""), "bin")]
    places += [str(folder) for package in sorted(packages) for folder in Path(package).glob("nvidia/*/bin")]
    return shutil.which("cuobjdump", path=os.pathsep.join(places))


def disassemble(cuobjdump: str, cubin: Path) -> dict[str, list[Instruction]]:
    """The instructions of each kernel, by its mangled name."""
    tools = os.pathsep.join([str(Path(cuobjdump).parent), os.environ.get("PATH", "")])  # it calls nvdisasm
    command = [cuobjdump, "-sass", str(cubin)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PATH": tools}).stdout
    return read_instructions(text)


def read_instructions(text: str) -> dict[str, list[Instruction]]:
    """The instructions in what `cuobjdump -sass` prints."""
    kernels: dict[str, list[Instruction]] = {}
    for line in text.splitlines():
        if match := FUNCTION.match(line):
            kernels[match[1]] = []
        elif kernels and (match := INSTRUCTION.match(line)):
            kernels[next(reversed(kernels))].append(Instruction(int(match[1], 16), match[2]))
    return kernels


def measure_step(instructions: list[Instruction]) -> Step:
    """Of match_wgmma. A step's barrier is the only one with a number in a register."""

    def places(pattern: str) -> list[int]:
        return [place for place, instruction in enumerate(instructions) if re.match(pattern, instruction.text)]

    barriers, votes = places(r"BAR\.SYNC\S* R"), places(r"VOTE\.ANY ")
    products, last_products = places(r"HGMMA"), places(r"WARPGROUP\.DEPBAR\.LE gsb0, 0x0")
    groups = places(r"WARPGROUP\.DEPBAR\.LE gsb0, 0x1")
    steps, looped = [], []
    for begin, barrier in zip([0, *barriers], barriers, strict=False):
        own = [place for place in groups if begin < place < barrier]
        chunk = statistics.median(end - place for place, end in pairwise(own))
        sums = barrier - max(place for place in last_products if place < barrier)
        score = min(place for place in votes if place > barrier) - barrier
        steps.append(Step(int(chunk), 0, sums, score))
    numbers = {instruction.address: place for place, instruction in enumerate(instructions)}
    for place in places(r"BRA 0x"):
        target = numbers.get(int(instructions[place].text.split()[-1], 16), place)
        inside = sum(target <= product < place for product in products)
        if inside == 2 and not any(target <= barrier < place for barrier in barriers):  # the products of one chunk
            looped.append(place + 1 - target)
    return Step(
        max(step.chunk for step in steps),
        max(looped),
        max(step.sums for step in steps),
        max(step.score for step in steps),
    )


def step_of_wgmma(nvcc: str, cuobjdump: str, torch: Path) -> Step:
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "match.cubin")
        compile_report(nvcc, ROOT / "csrc" / "cuda" / "match.cu", "90a", torch, cubin)
        kernels = disassemble(cuobjdump, cubin)
    return measure_step(next(code for name, code in kernels.items() if "match_wgmma" in name))


# ---- the table


def render(kernels: list[Kernel]) -> str:
    """Kernels by architectures. Variants of one template share a row: the most that any of them needs."""
    names: dict[str, set[str]] = {}
    for kernel in kernels:
        short = short_name(kernel.name)
        names.setdefault(short.partition("<")[0], set()).add(short)
    found = list(dict.fromkeys(kernel.architecture for kernel in kernels))
    rows = []
    for base in sorted(names):
        row = [f"`{base}`", str(len(names[base]))]
        for architecture in found:
            same = [
                kernel
                for kernel in kernels
                if kernel.architecture == architecture and short_name(kernel.name).partition("<")[0] == base
            ]
            row.append(_cell(same) if same else "-")
        rows.append(row)
    return tables.table(["kernel", "variants", *(f"sm_{number}" for number in found)], rows)


def _cell(kernels: list[Kernel]) -> str:
    parts = [str(max(kernel.registers for kernel in kernels))]
    for field, unit in (("shared", "B shared"), ("stack", "B stack")):
        if largest := max(getattr(kernel, field) for kernel in kernels):
            parts.append(f"{largest} {unit}")
    if spilled := max(kernel.spill_stores + kernel.spill_loads for kernel in kernels):
        parts.append(f"**{spilled} B spilled**")
    return ", ".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file to write: every kernel and architecture")
    parser.add_argument("--architectures", help="such as 80,90a (default: those of setup.py)")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--torch", type=Path, help="folder of the torch whose headers are used (default: the installed one)"
    )
    arguments = parser.parse_args()
    nvcc = find_nvcc()
    if nvcc is None:
        parser.error("expected nvcc in CUDA_HOME or on PATH, found none; install the CUDA toolkit")
    if arguments.torch is None:
        import torch

        arguments.torch = Path(torch.__file__).parent
    wanted = arguments.architectures.split(",") if arguments.architectures else architectures(nvcc)
    kernels, complaints = measure(nvcc, arguments.torch, wanted, arguments.jobs)
    print(render(kernels), end="")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps([asdict(kernel) for kernel in kernels], indent=1) + "\n")
    cuobjdump = find_cuobjdump()
    if cuobjdump and "90a" in wanted:
        step = asdict(step_of_wgmma(nvcc, cuobjdump, arguments.torch))
        print("instructions of a step of match_wgmma: " + ", ".join(f"{name} {step[name]}" for name in step))
    spilling = [kernel for kernel in kernels if kernel.spill_stores or kernel.spill_loads]
    for kernel in spilling:
        print(f"spills on sm_{kernel.architecture}: {short_name(kernel.name)}", file=sys.stderr)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    if not kernels:
        print("found no kernel in csrc/cuda", file=sys.stderr)
    return 1 if spilling or complaints or not kernels else 0


if __name__ == "__main__":
    sys.exit(main())
