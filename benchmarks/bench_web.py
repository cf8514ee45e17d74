"""The service under load: p95 of the time to an answer, photographs a minute, and memory, at 1, 4 and 16 visitors.

    python benchmarks/bench_web.py --out benchmarks/results/web-cpu.json

`inpaint web` runs in a process of its own. Each visitor sends the same photograph and mask, and again as soon as the
answer is there. The photograph is a JPEG of 1280x854 pixels, made of the example photographs (measure_photograph.py);
its hole is 200x200 pixels in the middle. Visitors are threads of this process, on the same machine.

Seconds count from a request's first byte to its answer's last. The rate counts the answers of all visitors from the
first request to the last answer. Memory is the server's high-water mark, above what it takes idle with its networks
loaded and one photograph filled. Every answer is compared with the first one's bytes. Each row says what share of the
machine other programs took ("others_percent"): where that is more than a few, measure again.
"""

from __future__ import annotations

import argparse
import http.client
import io
import math
import os
import re
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import machine
from bench_match import write
from measure_photograph import make_photograph, rectangle
from PIL import Image
from tqdm import tqdm

SIZE, HOLE = (854, 1280), (200, 200)  # height and width in pixels
VISITORS = (1, 4, 16)
SECONDS = 60.0
LONGEST = 600.0  # seconds that one answer may take


@dataclass
class Service:
    """A server that runs. address: host and port."""

    address: str
    pid: int

    def ask(self, body: bytes, boundary: str) -> tuple[int, bytes]:
        """Status and content of the answer."""
        connection = http.client.HTTPConnection(self.address, timeout=LONGEST)
        try:
            headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
            connection.request("POST", "/fill", body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def memory(self) -> int:
        """Bytes that it has taken at most since the last ``reset_memory``."""
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())[0])

    def reset_memory(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def processor_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(device: str, queue: int) -> Iterator[Service]:
    """`inpaint web` on a free port, with a folder for temporary files of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["web", "--port", "0", "--device", device, "--queue", str(queue), "--timeout", str(LONGEST)]
        process = subprocess.Popen(
            [sys.executable, "-c", "from inpaint.commands import main; main()", *command],
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        assert process.stderr
        try:
            said = []
            for line in process.stderr:
                said.append(line)
                if line.startswith("http://"):
                    break
            if not said or not said[-1].startswith("http://"):
                raise RuntimeError("inpaint web did not start: " + "".join(said))
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield Service(said[-1].split()[0].removeprefix("http://"), process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def form(files: dict[str, bytes], boundary: str) -> bytes:
    """A body of multipart/form-data."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in files.items()
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


def load(service: Service, body: bytes, boundary: str, visitors: int, seconds: float) -> tuple[list[float], float]:
    """The seconds of each answer, and those from the first request to the last answer.

    Raises:
        RuntimeError: an answer is no filled photograph, or another one than the first.
    """
    expected: list[bytes] = []
    times: list[float] = []
    problems: list[str] = []
    start = time.perf_counter()

    def visit() -> None:
        while not problems:
            begin = time.perf_counter()
            try:
                status, content = service.ask(body, boundary)
            except OSError as error:
                problems.append(f"no answer: {error}")
                return
            times.append(time.perf_counter() - begin)
            expected.append(content) if not expected else None
            if status != 200 or content != expected[0]:
                problems.append(f"expected the photograph of the first answer, got status {status}: {content[:200]!r}")
            if time.perf_counter() - start >= seconds:
                return

    threads = [threading.Thread(target=visit) for _ in range(visitors)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise RuntimeError(problems[0])
    return times, time.perf_counter() - start


def measure(service: Service, body: bytes, boundary: str, visitors: int, seconds: float, idle: int) -> dict[str, Any]:
    """A row of the results."""
    service.reset_memory()
    used = service.processor_seconds() + time.process_time()
    all_used = machine.processor_seconds()
    times, took = load(service, body, boundary, visitors, seconds)
    own = service.processor_seconds() + time.process_time() - used
    others = max(0.0, machine.processor_seconds() - all_used - own) / (took * len(os.sched_getaffinity(0)))
    return summary(visitors, times, took, service.memory() - idle, others)


def summary(visitors: int, times: list[float], took: float, memory: int, others: float) -> dict[str, Any]:
    """What goes into the results file of the times of all answers."""
    return {
        "visitors": visitors,
        "answers": len(times),
        "photographs_per_minute": _round(60 * len(times) / took),
        "median_s": _round(statistics.median(times)),
        "p95_s": _round(percentile(times, 0.95)),
        "slowest_s": _round(max(times)),
        "memory_mib": round(max(0, memory) / 2**20),
        "others_percent": _round(100 * others),
    }


def percentile(values: list[float], share: float) -> float:
    """The least value that is not below that share of all."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def files() -> dict[str, bytes]:
    """Photograph and mask."""
    photograph, mask = io.BytesIO(), io.BytesIO()
    Image.fromarray(make_photograph(SIZE).samples).save(photograph, "JPEG", quality=90)
    Image.fromarray(rectangle(SIZE, HOLE)).save(mask, "PNG")
    return {"photo": photograph.getvalue(), "mask": mask.getvalue()}


def table(results: list[dict[str, Any]]) -> str:
    """For the screen."""
    lines = ["visitors  answers  a minute  median s   p95 s  slowest s  memory MiB  others %"]
    lines += [
        f"{row['visitors']:8}  {row['answers']:7}  {row['photographs_per_minute']:8.1f}  {row['median_s']:8.2f}  "
        f"{row['p95_s']:6.2f}  {row['slowest_s']:9.2f}  {row['memory_mib']:10}  {row['others_percent']:8.1f}"
        for row in results
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--visitors", type=int, nargs="+", default=VISITORS, help="how many at once, case by case")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each case, at least")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    boundary = secrets.token_hex(16)
    body = form(files(), boundary)
    with serving(arguments.device, queue=max(arguments.visitors)) as service:
        load(service, body, boundary, 1, 0)  # code is loaded before time and memory are counted
        idle = service.memory()
        results = [
            measure(service, body, boundary, visitors, arguments.seconds, idle)
            for visitors in tqdm(arguments.visitors, unit="case")
        ]
    print(table(results))
    print(f"idle: {idle / 2**20:.0f} MiB")
    if arguments.out:
        described = machine.describe(arguments.device, machine.command_line("benchmarks/bench_web.py"))
        photograph = {"width": SIZE[1], "height": SIZE[0], "hole": list(HOLE), "bytes": len(body)}
        write(
            arguments.out,
            {
                "machine": described,
                "photograph": photograph,
                "idle_memory_mib": round(idle / 2**20),
                "results": results,
            },
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
