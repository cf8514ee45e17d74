"""Stand-ins for NVIDIA's libraries, with which a CUDA build of PyTorch runs on the CPU of a machine that lacks them.

PyPI has PyTorch for Linux with CUDA only, and that needs gigabytes of NVIDIA's libraries before it imports. The
stand-ins have the names and symbols that it asks for. Every function of theirs does nothing and answers 0, which means
success; cudaGetDeviceCount answers that there is no device. So PyTorch sees a machine without a GPU.
"""

from __future__ import annotations

import subprocess
from collections import defaultdict
from pathlib import Path

from elftools.elf.elffile import ELFFile

NO_DEVICE = 100  # cudaErrorNoDevice
SYSTEM = ("ld-linux", "libc.", "libdl.", "libgcc_s.", "libm.", "libpthread.", "librt.", "libstdc++.")
NVIDIA = ("cu", "nccl", "nv")
Wanted = dict[str, dict[str, set[str]]]  # library -> version -> symbols


def make_stand_ins(torch_libraries: Path) -> list[str]:
    """Put a stand-in beside PyTorch's own libraries for each one that they need and lack. Returns the names."""
    wanted = missing_symbols(torch_libraries)
    for name, versions in wanted.items():
        _compile(torch_libraries / name, versions)
    return sorted(wanted)


def missing_symbols(folder: Path) -> Wanted:
    """What the libraries of a folder ask of libraries that are neither there nor part of the system."""
    files = sorted(folder.glob("*.so*"))
    present = {file.name for file in files}
    wanted: Wanted = {}
    defined, loose = set(), set()
    for file in files:
        with open(file, "rb") as stream:
            elf = ELFFile(stream)
            for tag in elf.get_section_by_name(".dynamic").iter_tags("DT_NEEDED"):
                if tag.needed not in present and not tag.needed.startswith(SYSTEM):
                    wanted.setdefault(tag.needed, defaultdict(set))
            origins = _versions_by_number(elf)
            numbers = elf.get_section_by_name(".gnu.version")
            for place, symbol in enumerate(elf.get_section_by_name(".dynsym").iter_symbols()):
                if symbol["st_shndx"] != "SHN_UNDEF":
                    defined.add(symbol.name)
                    continue
                number = numbers.get_symbol(place)["ndx"] if numbers else None
                library, version = origins.get(number, ("", ""))
                if library in wanted:
                    wanted[library][version].add(symbol.name)
                elif not library and symbol.name and symbol["st_info"]["bind"] != "STB_WEAK":
                    loose.add(symbol.name)
    if wanted:  # any library may define what is asked for without naming one
        next(iter(wanted.values()))[""] |= {name for name in loose - defined if name.startswith(NVIDIA)}
    return wanted


def _versions_by_number(elf: ELFFile) -> dict[int, tuple[str, str]]:
    """Of a symbol's version number: the library that is to define it, and the version's name."""
    section = elf.get_section_by_name(".gnu.version_r")
    needs = section.iter_versions() if section else ()
    return {version["vna_other"]: (library.name, version.name) for library, versions in needs for version in versions}


def _compile(file: Path, versions: dict[str, set[str]]) -> None:
    names = sorted({name for symbols in versions.values() for name in symbols})
    answers = ((name, NO_DEVICE if name == "cudaGetDeviceCount" else 0) for name in names)
    source = "".join(f"long {name}(void) {{ return {answer}; }}\n" for name, answer in answers)
    script = "".join(
        f"{version} {{ global: {' '.join(f'{name};' for name in sorted(symbols))} }};\n"
        for version, symbols in sorted(versions.items())
        if version
    )
    rules = file.with_name(file.name + ".versions")
    rules.write_text(script)
    command = ["gcc", "-shared", "-fPIC", "-fno-builtin", "-w", f"-Wl,-soname,{file.name}", "-x", "c", "-", "-o", file]
    subprocess.run(
        [*command, *([f"-Wl,--version-script={rules}"] if script else [])], input=source.encode(), check=True
    )
    rules.unlink()
