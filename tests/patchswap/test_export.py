"""torch.export with sizes left open, and what it exports run from C++, in a process without Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.export import Dim

import patchswap
from patchswap import library, ops

COMPILER = os.environ.get("CXX", "g++").split()
LIBRARY = Path(patchswap.__file__).with_name(library.FILE)
TORCH = Path(torch.__file__).parent

# Arguments: the library of patchswap, a package of AOTInductor, then files of tensors: features, hole, expected result.
PROGRAM = """
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/serialize.h>

#include <fstream>
#include <iostream>
#include <iterator>
#include <vector>

at::Tensor read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return torch::pickle_load({std::istreambuf_iterator<char>(file), {}}).toTensor();
}

int main(int, char** arguments) {
  if (dlsym(RTLD_DEFAULT, "Py_Initialize")) return 2;  // this process has no Python
  if (!dlopen(arguments[1], RTLD_NOW)) {
    std::cerr << dlerror();
    return 3;
  }
  torch::inductor::AOTIModelPackageLoader model(arguments[2]);
  for (char** files = arguments + 3; *files; files += 3) {
    const auto results = model.run({read(files[0]), read(files[1])});
    if (!at::allclose(results.at(0), read(files[2]))) return 4;
  }
}
"""


class Swap(torch.nn.Module):
    def forward(self, features, hole):
        return patchswap.swap(features * 2, hole=hole, coherence=0.2)


class Stylise(torch.nn.Module):
    def forward(self, content, style):
        return patchswap.swap(content, style, patch_size=5)


def inputs(height, width, batch=2):
    features, hole = torch.randn(batch, 4, height, width), torch.zeros(batch, height, width, dtype=torch.bool)
    hole[:, 3:6, 4:7] = True
    return features, hole


def exported_swap():
    sizes = {0: Dim("batch", min=1), 2: Dim("height", min=4), 3: Dim("width", min=4)}
    spec = {"features": sizes, "hole": {0: sizes[0], 1: sizes[2], 2: sizes[3]}}
    return torch.export.export(Swap(), inputs(10, 11), dynamic_shapes=spec)


def test_hole_of_any_size():
    exported = exported_swap().module()
    for size in ((10, 11), (8, 30), (25, 9)):
        for batch in (1, 3):
            given = inputs(*size, batch)
            torch.testing.assert_close(exported(*given), Swap()(*given))


def test_style_of_any_size():
    content, style = torch.randn(1, 4, 9, 10), torch.randn(1, 4, 12, 7)
    spec = {name: {2: Dim(f"{name}_height", min=6), 3: Dim(f"{name}_width", min=6)} for name in ("content", "style")}
    exported = torch.export.export(Stylise(), (content, style), dynamic_shapes=spec).module()
    for size, style_size in (((9, 10), (12, 7)), ((6, 31), (20, 8)), ((17, 6), (6, 9))):
        content, style = torch.randn(1, 4, *size), torch.randn(1, 4, *style_size)
        torch.testing.assert_close(exported(content, style), Stylise()(content, style))


@pytest.mark.skipif(ops.extension is None, reason="the extension is not built")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="links as on Linux")
@pytest.mark.skipif(not shutil.which(COMPILER[0]), reason="needs a C++ compiler")
def test_run_from_cpp_without_python(tmp_path):
    """AOTInductor's package of a swap, in a C++ program that links torch and loads the library, and no Python."""
    package = torch._inductor.aoti_compile_and_package(exported_swap(), package_path=str(tmp_path / "swap.pt2"))
    files = []
    for number, size in enumerate(((10, 11), (13, 40))):
        given = inputs(*size)
        for name, tensor in (("features", given[0]), ("hole", given[1]), ("result", Swap()(*given))):
            files.append(tmp_path / f"{name}{number}.pt")
            torch.save(tensor, files[-1])
    source, program = tmp_path / "program.cpp", tmp_path / "program"
    source.write_text(PROGRAM)
    include = [f"-I{TORCH / 'include'}", f"-I{TORCH / 'include/torch/csrc/api/include'}"]
    link = [
        "-Wl,--no-as-needed",
        f"-L{TORCH / 'lib'}",
        f"-Wl,-rpath,{TORCH / 'lib'}",
        "-ltorch",
        "-ltorch_cpu",
        "-lc10",
        "-ldl",
    ]
    command = [*COMPILER, "-std=c++20", "-O0", *include, str(source), "-o", str(program), *link]
    subprocess.run(command, check=True)
    result = subprocess.run([program, LIBRARY, package, *files], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
