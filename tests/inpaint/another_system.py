"""Runs commands as far as Linux can show what Windows or macOS would do; test_other_systems.py starts it.

    python -X warn_default_encoding another_system.py win32|darwin FOLDER

After all other packages are imported, what the system lacks is taken away: modules, functions, signals, /proc and /sys.
On Windows a file that is open or mapped can be neither replaced nor deleted, rename does not replace, processes are
spawned, and text files have another encoding than UTF-8.
"""

from __future__ import annotations

import builtins
import errno
import importlib
import importlib.abc
import io
import json
import multiprocessing
import os
import pkgutil
import signal
import sys
import sysconfig
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import safetensors.torch  # noqa: F401
import tifffile  # noqa: F401
import torch.multiprocessing
import tqdm  # noqa: F401
from PIL import Image

MODULES = {
    "win32": ("fcntl", "grp", "pty", "pwd", "readline", "resource", "spwd", "syslog", "termios", "tty"),
    "darwin": ("spwd",),
}
FUNCTIONS = {  # of the module os
    "win32": "chown chroot fchdir fchmod fchown fork forkpty geteuid getgid getgroups getloadavg getpgid getpriority "
    "getuid killpg lchown mkfifo nice pathconf pipe2 posix_fadvise posix_fallocate posix_spawn pread preadv pwrite "
    "sched_getaffinity sched_setaffinity sendfile setpgid setsid statvfs sync sysconf sysconf_names uname wait3 wait4",
    "darwin": "pipe2 posix_fadvise posix_fallocate sched_getaffinity sched_setaffinity",
}
EXTRAS = ("inpaint.batch.ray_engine", "inpaint.onnx_export", "inpaint.web")  # of packages that look at the system, too
SIGNALS = {"win32": ("SIGALRM", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGUSR1", "SIGUSR2"), "darwin": ()}
open_before, listdir, readlink = open, os.listdir, os.readlink


class NoModules(importlib.abc.MetaPathFinder):
    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}, as on this system", name=name)


def simulate(system: str) -> None:
    sysconfig.get_config_vars()  # which are found by the platform's name
    sys.platform = system
    for name in MODULES[system]:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, NoModules(MODULES[system]))
    for name in FUNCTIONS[system].split():
        if hasattr(os, name):
            delattr(os, name)
    for name in SIGNALS[system]:
        delattr(signal, name)
    builtins.open = io.open = without_linux_files(open_before)  # type: ignore[assignment]
    multiprocessing.set_start_method("spawn", force=True)
    torch.multiprocessing.set_sharing_strategy("file_system")  # as neither shares files by their descriptors
    warnings.filterwarnings("error", category=EncodingWarning, module=r"(inpaint|patchswap)\b")
    if system == "win32":
        os.replace = not_while_in_use(os.replace, 2)  # type: ignore[assignment]
        os.rename = never_replacing(not_while_in_use(os.rename, 2))  # type: ignore[assignment]
        os.unlink = os.remove = not_while_in_use(os.unlink, 1)  # type: ignore[assignment]


def without_linux_files(function: Callable[..., Any]) -> Callable[..., Any]:
    def opened(file: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(file, str | os.PathLike) and os.fspath(file).startswith(("/proc/", "/sys/")):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), file)
        return function(file, *arguments, **options)

    return opened


def in_use() -> set[str]:
    """Files that this process has open or mapped."""
    files = set()
    for descriptor in listdir("/proc/self/fd"):
        try:
            files.add(readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:  # that of the list itself
            continue
    with open_before("/proc/self/maps", encoding="utf-8") as maps:
        files |= {line.split(maxsplit=5)[5].strip() for line in maps if len(line.split(maxsplit=5)) > 5}
    return files


def not_while_in_use(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    def changed(*arguments: Any, **options: Any) -> Any:
        for path in arguments[:count]:
            if os.path.realpath(path) in in_use():
                raise PermissionError(errno.EACCES, "The process cannot access the file", str(path))
        return function(*arguments, **options)

    return changed


def never_replacing(function: Callable[..., Any]) -> Callable[..., Any]:
    def renamed(source: Any, target: Any, **options: Any) -> Any:
        if os.path.exists(target):
            raise FileExistsError(errno.EEXIST, "Cannot create a file when that file already exists", str(target))
        return function(source, target, **options)

    return renamed


def import_all(system: str) -> list[str]:
    """Every module of both packages that needs none of EXTRAS, or whose extra is not installed."""
    imported = []
    for package in ("patchswap", "inpaint"):
        for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if found.name.startswith(EXTRAS) or found.name.endswith(("__main__", "._C")):
                continue
            try:
                importlib.import_module(found.name)
            except ModuleNotFoundError as error:
                if error.name is None or error.name in MODULES[system]:
                    raise
            imported.append(found.name)
    return imported


def main(system: str, folder: Path) -> None:
    simulate(system)
    modules = import_all(system)
    from inpaint.commands import main as command

    def run(*arguments: object) -> str:
        result = click.testing.CliRunner().invoke(command, [str(argument) for argument in arguments])
        if result.exit_code:
            raise SystemExit(f"{arguments}: {result.output} {result.exception!r}") from result.exception
        return result.stdout

    os.chdir(folder)
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (6, 7, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((70, 64), Image.Resampling.BICUBIC))
    hole = np.zeros((64, 70), bool)
    hole[20:40, 25:45] = True
    Image.fromarray(pixels).save("größe.png")
    Image.fromarray(hole).save("mask.png")
    run("fill", "größe.png", "mask.png", "-o", "filled.png", "--explain", "explained.png")
    run("fill", "größe.png", "mask.png", "-o", "größe.png", "--overwrite")
    run("mask", "größe.png", "mask.png", "--save-mask", "again.png")
    report = json.loads(run("info", "--json"))

    # A training that goes on from its checkpoint, with a process that loads pictures; then export and fill.
    Path("photographs").mkdir()
    Path("photographs-masks").mkdir()
    for number in range(2):
        coarse.resize((90, 80)).save(f"photographs/{number}.png")
        Image.fromarray(hole).resize((90, 80)).save(f"photographs-masks/{number}.png")
    workers = int(system == "darwin")  # multiprocessing's own code for Windows needs Windows
    sizes = f"image_size = 64\nbatch = 1\nwindow = 0\ndiscriminator_width = 8\nbfloat16 = false\nworkers = {workers}\n"
    networks = {"image2feature": "widths = [8, 8, 8]\ndilations = [1]", "feature2image": "widths = [8]\nupper = [8, 8]"}
    for stage, network in networks.items():
        Path(f"{stage}.toml").write_text(f"{sizes}[network]\n{network}", encoding="utf-8")
        options = ("--config", f"{stage}.toml", "--data", "photographs", "--out", stage, "--quiet")
        for steps in (1, 2):
            run("train", stage, *options, "--steps", steps)
    checkpoints = [word for stage in networks for word in (f"--{stage}", f"{stage}/checkpoint.safetensors")]
    for _ in range(2):
        run("train", "export", *checkpoints, "-o", "own.safetensors")
    run("fill", "größe.png", "mask.png", "-o", "own.png", "--weights", "own.safetensors")
    for _ in range(2):
        run("batch", "photographs", "photographs-masks", "-o", "results", "--weights", "own.safetensors", "--quiet")
    Path("masks").mkdir()
    for number in range(2):
        Image.fromarray(hole).resize((90, 80)).save(f"masks/center_{number}.png")
    run(
        "evaluate", "photographs", "masks", "--out", "report", "--kinds", "center", "--method", "mean-colour", "--quiet"
    )

    filled = np.asarray(Image.open("filled.png"))
    print(
        json.dumps(
            {
                "modules": modules,
                "known pixels are kept": bool(np.array_equal(filled[~hole], pixels[~hole])),
                "hole is filled": bool((filled[hole] != pixels[hole]).any()),
                "photographs in results": len(list(Path("results").glob("*.png"))),
                "overwritten": bool(np.array_equal(np.asarray(Image.open("größe.png")), filled)),
                "library": report["patchswap"]["extension_cause"],
                "threads": report["threads"],
                "free_memory": report["free_memory"],
                "left behind": sorted(str(path) for path in Path().rglob("*") if path.suffix in (".tmp", ".part")),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
