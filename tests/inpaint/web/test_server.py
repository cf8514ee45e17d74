"""The command and its server as processes of their own."""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from inpaint.commands import main

PAGE = Path(__file__).parents[3] / "docs" / "web.md"
SLACK = 96 * 2**20  # bytes that memory may differ by between two runs of the same work


# The command


def run(*arguments: object, **environment: str):
    return CliRunner().invoke(main, ["web", *map(str, arguments)], env=environment)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = run()
    assert result.exit_code == 1
    assert "this needs uvicorn, which is not installed: pip install 'patchswap[web]'" in result.output


def test_help_needs_no_extra(monkeypatch):
    for module in ("fastapi", "gradio", "uvicorn"):
        monkeypatch.setitem(sys.modules, module, None)
    result = run("--help")
    assert result.exit_code == 0 and "--max-megapixels" in result.output


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--auth", "anna"], {}, "auth: expected USER:PASSWORD, got another form"),
        ([], {"INPAINT_AUTH": "anna"}, "auth: expected USER:PASSWORD, got another form"),
        (["--auth-file", "missing.txt"], {}, "missing.txt: No such file"),
        (["--timeout", "1e9"], {}, "limits: expected an upload of 1 byte or more"),
        (["--device", "tpu"], {}, "device: expected auto, cpu, cuda or mps, got 'tpu'"),
        (["--allow-host", "a*b"], {}, "host: expected a name such as example.org"),
        (["--weights", "missing"], {}, "missing: expected weights, found no file"),
    ],
)
def test_what_is_wrong_is_said_before_the_server_starts(arguments, environment, words, tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="needs the extra web")
    monkeypatch.chdir(tmp_path)
    result = run(*arguments, **environment)
    assert result.exit_code == 1 and f"inpaint: {words}" in result.output
    assert "anna" not in result.output


def test_a_file_of_a_password_in_another_encoding_is_named(tmp_path):
    pytest.importorskip("gradio", reason="needs the extra web")
    file = tmp_path / "password.txt"
    file.write_bytes("anna:größe".encode("latin-1"))
    result = run("--auth-file", file)
    assert result.exit_code == 1 and f"inpaint: {file}: expected text in UTF-8, got other bytes" in result.output
    assert "anna" not in result.output


def test_requests_have_to_be_for_a_name_of_the_server(monkeypatch):
    pytest.importorskip("gradio", reason="needs the extra web")
    from fastapi.testclient import TestClient

    from inpaint.web import server
    from inpaint.web.filler import Filler
    from inpaint.web.limits import Limits

    monkeypatch.setattr(server, "add_page", lambda *arguments: None)
    for host, names, asked, status in (
        ("127.0.0.1", [], "localhost:7860", 200),
        ("127.0.0.1", [], "127.0.0.1", 200),
        ("127.0.0.1", [], "[::1]:7860", 200),
        ("127.0.0.1", [], "example.org", 400),
        ("127.0.0.1", ["example.org"], "example.org", 200),
        ("127.0.0.1", ["*.example.org"], "photos.example.org:80", 200),
        ("0.0.0.0", [], "example.org", 200),
        ("0.0.0.0", ["example.org"], "example.com", 400),
    ):
        with server.make_server(Filler([]), Limits(), host=host, names=names) as made:
            client = TestClient(made.config.app)
            assert client.get("/health", headers={"Host": asked}).status_code == status, (host, names, asked)


# The server


@dataclass
class Server:
    address: str
    process: subprocess.Popen
    temporary: Path

    def peak(self) -> int:
        """Bytes of memory that the process has had at most."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])

    def metrics(self) -> str:
        return urllib.request.urlopen(f"{self.address}/metrics").read().decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    pytest.importorskip("gradio", reason="needs the extra web")
    temporary = tmp_path_factory.mktemp("temporary")
    command = "from inpaint.commands import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "web", "--port", "0", "--device", "cpu", "--max-upload", "64"],
        env=os.environ | {"TMPDIR": str(temporary), "OMP_WAIT_POLICY": "PASSIVE"},
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("http://"):
            break
    assert lines and lines[-1].startswith("http://127.0.0.1:"), lines
    threading.Thread(target=process.stderr.read, daemon=True).start()
    yield Server(lines[-1].split()[0], process, temporary)
    process.send_signal(signal.SIGTERM)
    process.wait(60)


def photograph(path: Path, height: int, width: int) -> bytes:
    """A smooth one, and a mask of a small square next to it."""
    ramp = np.linspace(0, 255, width, dtype=np.uint8)
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = ramp[None, :, None]
    Image.fromarray(picture).save(path / "photo.jpg")
    mask = np.zeros((height, width), bool)
    mask[20:40, 30:60] = True
    Image.fromarray(mask).save(path / "mask.png")
    return (path / "photo.jpg").read_bytes()


def curl_of_the_page() -> list[str]:
    (line,) = re.findall(r"^curl .*$", PAGE.read_text(), re.MULTILINE)
    return shlex.split(line)


def test_the_documented_curl_line_gives_the_commands_file(server, tmp_path):
    photograph(tmp_path, 64, 96)
    words = [word.replace("http://127.0.0.1:7860", server.address) for word in curl_of_the_page()]
    try:
        subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("curl is not installed")
    arguments = [tmp_path / "photo.jpg", tmp_path / "mask.png", "-o", tmp_path / "expected.jpg", "--device", "cpu"]
    assert CliRunner().invoke(main, ["fill", *map(str, arguments)]).exit_code == 0
    assert (tmp_path / "filled.jpg").read_bytes() == (tmp_path / "expected.jpg").read_bytes()


def form(photo: bytes, mask: bytes) -> urllib.request.Request:
    """A POST of both."""
    body = io.BytesIO()
    for name, content in (("photo", photo), ("mask", mask)):
        head = f'--limit\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n\r\n'
        body.write(head.encode() + content + b"\r\n")
    body.write(b"--limit--\r\n")
    return urllib.request.Request(
        "http://127.0.0.1/", body.getvalue(), {"Content-Type": "multipart/form-data; boundary=limit"}, method="POST"
    )


def visitors(server: Server, count: int, photo: bytes, mask: bytes) -> list[int]:
    """The statuses that so many get who ask at once."""
    statuses: list[int] = []

    def visit() -> None:
        asked = form(photo, mask)
        asked.full_url = f"{server.address}/fill"
        try:
            with urllib.request.urlopen(asked, timeout=120) as answer:
                answer.read()
                statuses.append(answer.status)
        except urllib.error.HTTPError as error:
            statuses.append(error.code)

    threads = [threading.Thread(target=visit) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return statuses


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to measure memory")
def test_several_visitors_at_once_take_no_more_memory_than_one(server, tmp_path):
    """But for their files: of 16 megapixels each, decoded 48 MB and worked on in several times that."""
    photo, mask = photograph(tmp_path, 4000, 4000), (tmp_path / "mask.png").read_bytes()
    assert visitors(server, 1, photo, mask) == [200]
    one = server.peak()
    assert visitors(server, 3, photo, mask) == [200] * 3
    files = 3 * (len(photo) + len(mask))  # uploaded, and again as results
    assert server.peak() <= one + 2 * files + SLACK


def test_a_visitor_who_leaves_cancels_the_work(server, tmp_path):
    import http.client

    photo, _ = photograph(tmp_path, 4000, 4000), None
    mask = io.BytesIO()
    middle = np.zeros((4000, 4000), bool)
    middle[1000:3000, 1000:3000] = True
    Image.fromarray(middle).save(mask, "PNG")
    asked = form(photo, mask.getvalue())
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"))
    connection.request("POST", "/fill", asked.data, dict(asked.headers))
    while "inpaint_working_tasks 1.0" not in server.metrics():
        time.sleep(0.05)
    connection.close()
    end = time.monotonic() + 60
    while 'inpaint_tasks_total{outcome="cancelled"} 1.0' not in server.metrics():
        assert time.monotonic() < end
        time.sleep(0.1)
    assert "inpaint_working_tasks 0.0" in server.metrics()


def test_the_server_ends_and_leaves_nothing_behind(server):
    assert list(server.temporary.iterdir())  # the page's folder
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(60)
    assert list(server.temporary.iterdir()) == []
