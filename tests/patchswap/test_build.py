"""setup.py with stand-ins for the compilers, which write down what they are asked: nothing is compiled here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from patchswap import library

ROOT = Path(__file__).resolve().parents[2]
COMPILER = """\
#!{python}
import pathlib, sys
words = sys.argv[1:]
if words == ["--version"]:
    print("Cuda compilation tools, release {nvcc}, V{nvcc}.1")
elif words == ["--list-gpu-code"]:
    print("sm_75 sm_80 sm_86 sm_90 sm_100 sm_120")
elif "-dM" in words:
    print("#define __GNUC__ {gcc}" + "{clang}")
else:
    with open("{log}", "a") as log:
        print(*[sys.argv[0].rsplit("/")[-1], *words], sep="\\t", file=log)
    for option in ("-o", "-MF"):
        if option in words:
            pathlib.Path(words[words.index(option) + 1]).touch()
"""


def has_setuptools() -> bool:
    try:
        import setuptools
    except ImportError:
        return False
    return int(setuptools.__version__.split(".")[0]) >= 77


pytestmark = [
    pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the source tree"),
    pytest.mark.skipif(not has_setuptools(), reason="needs setuptools >= 77"),
]


class Build:
    """One run of setup.py. `commands`: what it asked of the compilers, each a list of words."""

    def __init__(self, folder: Path, variables: dict[str, str], gcc="12", nvcc="13.0", clang="", platform="") -> None:
        self.log = folder / "log"
        programs = folder / "bin"
        programs.mkdir()
        for name in ("g++", "g++-12", "clang++", "nvcc", "ccache"):
            text = COMPILER.format(python=sys.executable, log=self.log, gcc=gcc, nvcc=nvcc, clang=clang)
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        chosen = ("CXX", "CXXFLAGS", "LDFLAGS", "DEBUG", "CUDA_HOME", "TORCH_CUDA_ARCH_LIST")
        inherited = {name: value for name, value in os.environ.items() if name not in chosen}
        inherited = {name: value for name, value in inherited.items() if not name.startswith("PATCHSWAP_")}
        environment = {
            **inherited,
            "PATH": f"{programs}:/usr/bin:/bin",
            "PATCHSWAP_TORCH": str(Path(torch.__file__).parent),
        }
        program = "import runpy, sys\nfrom setuptools.command import build_ext\n"
        program += f"sys.platform = {platform!r} or sys.platform\nrunpy.run_path('setup.py')"
        arguments = ["-q", "build_ext", "--build-temp", str(folder / "temp"), "--build-lib", str(folder / "lib")]
        result = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=ROOT,
            env={**environment, **variables},
            capture_output=True,
            text=True,
        )
        self.status, self.errors = result.returncode, result.stderr
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.commands = [line.split("\t") for line in lines]

    def of(self, program: str, suffix: str) -> list[list[str]]:
        """The commands of one program that have a file of this kind among their words."""
        return [words for words in self.commands if words[0] == program and any(w.endswith(suffix) for w in words)]

    def one_of(self, program: str, suffix: str) -> list[str]:
        assert self.status == 0, self.errors
        return self.of(program, suffix)[0]


@pytest.fixture
def build(tmp_path):
    return lambda variables=None, **versions: Build(tmp_path, variables or {}, **versions)


def check_refused(found: Build, *words: str) -> None:
    assert found.status != 0 and not found.commands, "it went on to compile"
    last = found.errors.strip().splitlines()[-1]
    assert last.startswith("error: expected ")
    for word in words:
        assert word in last


def architectures_of(words: list[str]) -> list[str]:
    return [word.removeprefix("-gencode=") for word in words if word.startswith("-gencode=")]


@pytest.mark.parametrize(
    ("listed", "flags", "names"),
    [
        ("9.0", ["arch=compute_90a,code=sm_90a"], "9.0a"),
        ("9.0a", ["arch=compute_90a,code=sm_90a"], "9.0a"),
        ("9.0;9.0a", ["arch=compute_90a,code=sm_90a"], "9.0a"),
        ("9.0+PTX", ["arch=compute_90a,code=sm_90a", "arch=compute_90,code=compute_90"], "9.0a+PTX"),
        (
            "8.6 10.0 12.0+PTX",
            [
                "arch=compute_86,code=sm_86",
                "arch=compute_100,code=sm_100",
                "arch=compute_120,code=[sm_120,compute_120]",
            ],
            "8.6,10.0,12.0+PTX",
        ),
        (
            "",  # those of the default list that this nvcc knows
            [
                *[f"arch=compute_{number},code=sm_{number}" for number in ("75", "80", "86", "90a", "100")],
                "arch=compute_120,code=[sm_120,compute_120]",
            ],
            "7.5,8.0,8.6,9.0a,10.0,12.0+PTX",
        ),
    ],
)
def test_architectures(build, listed, flags, names):
    found = build({"TORCH_CUDA_ARCH_LIST": listed})
    words = found.one_of("nvcc", "match.cu")
    assert architectures_of(words) == flags
    assert ("-DPATCHSWAP_WGMMA" in words) == ("9.0a" in names)
    assert f'-DPATCHSWAP_CUDA_ARCHITECTURES="{names}"' in found.one_of("g++", "ops.cpp")


@pytest.mark.parametrize("entry", ["Hopper", "native", "90", "sm_90", "9.0 all"])
def test_names_of_architectures_are_refused(build, entry):
    words = ('compute capabilities in TORCH_CUDA_ARCH_LIST, such as "8.6 9.0+PTX"', f'found "{entry.split()[-1]}"')
    check_refused(build({"TORCH_CUDA_ARCH_LIST": entry}), *words, 'Hopper "9.0"')


def test_an_architecture_that_nvcc_does_not_know(build):
    check_refused(build({"TORCH_CUDA_ARCH_LIST": "8.0 7.0"}), "knows (7.5, 8.0, 8.6, 9.0, 10.0, 12.0), found 7.0")


def test_old_nvcc(build):
    check_refused(build(nvcc="11.8"), "nvcc 12 or newer, found version 11.8 (", "CUDA_HOME", "PATCHSWAP_CPU_ONLY=1")


def test_old_nvcc_where_it_is_not_wanted(build):
    found = build({"PATCHSWAP_CPU_ONLY": "1"}, nvcc="11.8")
    assert "-DPATCHSWAP_CUDA" not in found.one_of("g++", "ops.cpp") and not found.of("nvcc", "")


def test_old_gcc(build):
    check_refused(build(gcc="10"), "g++ 11 or newer, found version 10 (g++); ", "CXX=g++-12")


def test_clang_calls_itself_an_old_gcc(build):
    assert build({"CXX": "clang++"}, gcc="4", clang="\\n#define __clang__ 1").one_of("clang++", "ops.cpp")


def test_no_compiler(build):
    check_refused(build({"CXX": "nowhere++"}), "found no nowhere++", "apt install build-essential")


def test_other_systems(build):
    check_refused(build(platform="darwin"), "expected Linux", "found darwin", "PATCHSWAP_NO_LIBRARY=1 pip install .")


def test_contraction_is_stated(build):
    """The searches on the CPU agree bit for bit only where products are contracted everywhere."""
    found = build({"PATCHSWAP_CPU_ONLY": "1"})
    assert all("-ffp-contract=fast" in words and "-O3" in words for words in found.of("g++", ".cpp"))
    assert len(found.of("g++", ".cpp")) == len(list((ROOT / "csrc").rglob("*.cpp")))


def test_options_of_the_environment(build):
    """They come last, so they win; nvcc hands them to the host compiler."""
    options = {"CXX": "ccache g++-12 -m64", "CXXFLAGS": "-O1 -march=x86-64-v3", "LDFLAGS": "-Wl,-z,now -L/somewhere"}
    found = build({**options, "TORCH_CUDA_ARCH_LIST": "8.0"})
    words = found.one_of("ccache", "ops.cpp")
    assert words[1] == "g++-12"
    assert [word for word in words if word.startswith(("-m", "-O"))] == ["-O3", "-m64", "-O1", "-march=x86-64-v3"]
    words = found.one_of("nvcc", "match.cu")
    assert words[words.index("-ccbin") + 1] == "g++-12"
    assert {"-Xcompiler=-m64", "-Xcompiler=-O1", "-Xcompiler=-march=x86-64-v3"} <= set(words)
    words = found.one_of("nvcc", "_C.abi3.so")
    assert {"-Xcompiler=-Wl\\,-z\\,now", "-Xcompiler=-L/somewhere"} <= set(words)


def test_linker_options_without_cuda(build):
    found = build({"LDFLAGS": "-Wl,-z,now", "PATCHSWAP_CPU_ONLY": "1"})
    assert "-Wl,-z,now" in found.one_of("g++", "_C.abi3.so")


def test_no_folder_of_this_machine_is_compiled_in(build):
    found = build({"TORCH_CUDA_ARCH_LIST": "8.0"})
    mapped = f"-ffile-prefix-map={Path(torch.__file__).parent}/include/="
    assert mapped in found.one_of("g++", "ops.cpp")
    assert f"-Xcompiler={mapped}" in found.one_of("nvcc", "match.cu")


def test_debug(build):
    found = build({"DEBUG": "1", "TORCH_CUDA_ARCH_LIST": "8.0"})
    for words in (found.one_of("g++", "ops.cpp"), found.one_of("nvcc", "match.cu")):
        assert "-g" in words and "-O0" in words and "-O3" not in words
    assert "-lineinfo" in found.one_of("nvcc", "match.cu")


def test_an_installation_without_the_library(tmp_path):
    """A wheel for every system, built where there is no compiler, whose package knows that it has no library."""
    sources, wheels, site = tmp_path / "sources", tmp_path / "wheels", tmp_path / "site"
    leave_out = shutil.ignore_patterns("*.so", "__pycache__", "*.safetensors")
    for name in ("patchswap", "inpaint", "build_backend"):
        shutil.copytree(ROOT / name, sources / name, ignore=leave_out)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    environment = {**os.environ, library.VARIABLE: "1", "CXX": "nowhere++", "PATH": "/nowhere"}
    environment["PATCHSWAP_LOCAL_VERSION"] = "here"
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-build-isolation",
        "--no-deps",
        "--no-index",
        "-w",
        str(wheels),
        ".",
    ]
    built = subprocess.run(command, cwd=sources, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = wheels.iterdir()
    assert wheel.name.endswith("+here-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)

    program = "import json, torch, patchswap; patchswap.match(*torch.ones(2, 1, 1, 3, 3)); "
    program += "print(json.dumps([patchswap.__file__, patchswap.build_info()]))"
    environment = {name: value for name, value in os.environ.items() if name != library.VARIABLE}
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", program]
    result = subprocess.run(
        command, cwd=tmp_path, env={**environment, "PYTHONPATH": str(site)}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    file, info = json.loads(result.stdout)
    assert Path(file).is_relative_to(site)
    assert (info["extension"], info["extension_cause"], info["cpu_kernel"]) == (False, "not wanted", "reference")
    assert "installed with PATCHSWAP_NO_LIBRARY=1" in info["extension_error"]
