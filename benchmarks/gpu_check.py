"""Everything that only a machine with an NVIDIA GPU can settle, in ten minutes: `make gpu-check`.

The tests that need a GPU, compute-sanitizer where it is installed, all other tests, then the benchmark. Each part has
a time limit of its own, so that a slow or hanging one does not eat the rest; whatever happens, what was found is
written to benchmarks/results/gpu-check.json, and the benchmark's numbers to match-cuda.json. Logs: build/gpu-check/.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import machine

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LAST_LINES = 25
BUDGET = "BUDGET"  # in a command: most of its time limit, in seconds


@dataclass
class Part:
    """One command, and what became of it."""

    name: str
    command: list[str]
    limit: float  # seconds
    status: str = "not run"  # then "passed", "failed", "out of time" or "skipped"
    seconds: float = 0.0
    last_lines: str = ""

    def run(self, log: Path) -> None:
        """Run it in a process group of its own, which is ended with all its children at the limit."""
        print(f"==> {self.name}: {' '.join(self.command)} (at most {self.limit:.0f} s)", flush=True)
        command = [str(round(0.85 * self.limit)) if word == BUDGET else word for word in self.command]
        start = time.monotonic()
        with log.open("w") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                code = process.wait(self.limit)
                self.status = "passed" if code == 0 else f"failed, exit {code}"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                self.status = "out of time"
        self.seconds = round(time.monotonic() - start, 1)
        self.last_lines = "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])
        print(self.last_lines)
        print(f"==> {self.name}: {self.status} after {self.seconds} s\n", flush=True)


def plan(budget: float, results: Path) -> list[Part]:
    """The parts in order, with their shares of the budget."""
    python, pytest = sys.executable, [sys.executable, "-m", "pytest", "-q", "--tb=short", "--maxfail=20"]
    sanitizer = find_sanitizer()
    match = [python, "benchmarks/bench_match.py", "--device", "cuda", "--budget-seconds", BUDGET]
    match += ["--out", str(results / "match-cuda.json")]
    if results == RESULTS:
        match += ["--plot", str(ROOT / "docs" / "images" / "match-cuda.png")]
    parts = [Part("GPU tests", [*pytest, "-m", "gpu"], 0.22 * budget)]
    for tool in ("memcheck", "racecheck"):
        # racecheck follows every access to shared memory and takes long.
        command = [sanitizer or "compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
        parts.append(Part(tool, [*command, python, "benchmarks/development/sanitize.py"], 0.08 * budget))
        if sanitizer is None:
            parts[-1].status = "skipped: compute-sanitizer is not installed"
    parts.append(Part("other tests", [*pytest, "-m", "not gpu"], 0.27 * budget))
    parts.append(Part("benchmark", match, 0.35 * budget))
    if results == RESULTS:
        parts.append(Part("tables", [python, "benchmarks/tables.py"], 10.0))
    return parts


def find_sanitizer() -> str | None:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which("compute-sanitizer") or shutil.which(f"{home}/bin/compute-sanitizer")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget-seconds", type=float, default=570.0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files and logs to write")
    arguments = parser.parse_args()
    import torch

    import patchswap

    if not torch.cuda.is_available():
        print("gpu-check: torch finds no NVIDIA GPU on this machine, nothing was checked")
        return 1
    if not patchswap.build_info()["cuda_kernel"]:
        print("gpu-check: patchswap was built without CUDA kernels: install nvcc, then make clean gpu-check")
        return 1
    logs = ROOT / "build" / "gpu-check" if arguments.results == RESULTS else arguments.results
    for folder in (arguments.results, logs):
        folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"machine": machine.describe("cuda", "make gpu-check")}
    start = time.monotonic()
    parts = plan(arguments.budget_seconds, arguments.results)
    content["devices"] = torch.cuda.device_count()
    for number, part in enumerate(parts):
        if part.status == "not run":  # and not left out
            # What earlier parts have left over is shared by the rest.
            left = arguments.budget_seconds - (time.monotonic() - start)
            part.limit = max(10.0, left * part.limit / sum(later.limit for later in parts[number:]))
            part.run(logs / f"{part.name.replace(' ', '-')}.log")
        content["parts"] = [asdict(part) for part in parts]
        temporary = arguments.results / "gpu-check.json.tmp"
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(temporary, arguments.results / "gpu-check.json")
    print(f"gpu-check: {time.monotonic() - start:.0f} s on {content['machine']['gpu']['name']}")
    for part in parts:
        print(f"  {part.name:12} {part.seconds:7.1f} s  {part.status}")
    return 0 if all(part.status == "passed" or part.status.startswith("skipped") for part in parts) else 1


if __name__ == "__main__":
    sys.exit(main())
