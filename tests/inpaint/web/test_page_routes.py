"""What can be reached through gradio, with a page that hands every file it gets back to the visitor."""

from __future__ import annotations

import json
import os

import pytest

pytest.importorskip("gradio", reason="needs the extra web")

import gradio
from fastapi.testclient import TestClient

from inpaint.web.api import make_api
from inpaint.web.credentials import Credentials
from inpaint.web.filler import Filler
from inpaint.web.limits import Limits
from inpaint.web.server import KEPT, mount


class Idle:
    """A device that nothing is sent to."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "temporary"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as changes:
        changes.setenv("GRADIO_TEMP_DIR", str(folder))
        changes.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        yield folder


@pytest.fixture(scope="module")
def client(folder):
    with gradio.Blocks() as page:
        given, back = gradio.File(), gradio.File()
        gradio.Button().click(lambda path: path, given, back)
    api = make_api(Filler([Idle()]), Limits(upload=10_000))
    mount(api, page, Limits(upload=10_000), str(folder), {"css": "p { color: red }"})
    assert page.delete_cache[1] == KEPT
    with TestClient(api, base_url="http://example.org", raise_server_exceptions=False) as client:
        yield client


def echoed(client: TestClient, file: dict) -> dict:
    """What the page's function gives back for a file that the browser names."""
    given = {**file, "meta": {"_type": "gradio.FileData"}}
    asked = {"data": [given], "fn_index": 0, "session_hash": "s", "trigger_id": None, "event_data": None}
    assert client.post("/gradio_api/queue/join", json=asked).status_code == 200
    with client.stream("GET", "/gradio_api/queue/data?session_hash=s") as events:
        for line in events.iter_lines():
            if line.startswith("data: ") and (event := json.loads(line[6:]))["msg"] == "process_completed":
                return event
    raise AssertionError("no end")


def uploaded(client: TestClient, content: bytes = b"hello") -> str:
    answer = client.post("/gradio_api/upload", files={"files": ("mine.txt", content)})
    assert answer.status_code == 200, answer.text
    return answer.json()[0]


def test_the_page_works(client, folder):
    assert "<html" in client.get("/").text and client.get("/health").json() == {"status": "ok"}
    assert client.get("/theme.css").status_code == 200
    path = uploaded(client)
    assert path.startswith(str(folder)) and client.get(f"/gradio_api/file={path}").text == "hello"
    event = echoed(client, {"path": path})
    assert event["success"] and client.get("/gradio_api/file=" + event["output"]["data"][0]["path"]).text == "hello"


@pytest.mark.parametrize(
    "address",
    [
        "/file={secret}",
        "/file/{secret}",
        "/gradio_api/file={secret}",
        "/gradio_api/file%3D{secret}",
        "/gradio_api/file={folder}/../secret.txt",
        "/gradio_api/file={folder}/%2e%2e/secret.txt",
        "/gradio_api/file={folder}/link",
        "/gradio_api/file={folder}",
        "/gradio_api/file=../secret.txt",
        "/gradio_api/file=file://{secret}",
        "/gradio_api/file=http://127.0.0.1:9/",
        "/gradio_api/file/{secret}",
        "/gradio_api/proxy=http://127.0.0.1:9/",
        "/gradio_api/stream/s/1/2/playlist-file",
        "/gradio_api//file={secret}",
        "/static/..%2f..%2f..%2f..%2f..%2f..%2f..%2f{secret}",
        "/assets/..%2f..%2f..%2f..%2f..%2f..%2f..%2f{secret}",
        "/svelte/..%2f..%2f..%2f..%2f..%2f..%2f..%2f{secret}",
        "/custom_component/1/client/component/{secret}",
        "/monitoring",
    ],
)
def test_no_file_of_the_server_can_be_read(address, client, folder):
    secret = folder.parent / "secret.txt"
    secret.write_text("the secret")
    if not (folder / "link").exists():
        os.symlink(secret, folder / "link")
    answer = client.get(address.format(secret=secret, folder=folder))
    assert answer.status_code in (403, 404) and "the secret" not in answer.text and str(secret) not in answer.text


def test_the_page_takes_no_file_that_was_not_uploaded(client, folder):
    secret = folder.parent / "secret.txt"
    secret.write_text("the secret")
    for file in ({"path": str(secret)}, {"path": f"{folder}/../secret.txt"}, {"path": "http://127.0.0.1:9/x"}):
        event = echoed(client, file)
        assert not event["success"] and "secret" not in json.dumps(event)
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert all(path.read_bytes() != b"the secret" for path in files)


def test_the_page_asks_for_the_password(folder):
    with gradio.Blocks() as page:
        gradio.File()
    api = make_api(Filler([Idle()]), Limits(), Credentials("anna", "word"))
    mount(api, page, Limits(), str(folder), {})
    with TestClient(api) as client:
        for address in ("/", "/config", "/theme.css", "/gradio_api/info", f"/gradio_api/file={folder}/x"):
            assert client.get(address).status_code == 401
            assert client.get(address, auth=("anna", "word")).status_code != 401
        assert client.post("/gradio_api/upload", files={"files": ("x", b"x")}).status_code == 401


def test_uploads_to_the_page_are_limited(client):
    assert client.post("/gradio_api/upload", files={"files": ("x", bytes(20_000))}).status_code == 413


def test_files_of_the_page_are_removed_at_the_end(folder):
    with gradio.Blocks() as page:
        gradio.File()
    api = make_api(Filler([Idle()]), Limits())
    mount(api, page, Limits(), str(folder), {})
    with TestClient(api) as client:
        path = uploaded(client)
        assert os.path.exists(path)
    assert not os.path.exists(path)


def test_other_sites_cannot_read_the_page(client):
    for method, address in (("GET", "/config"), ("OPTIONS", "/gradio_api/queue/join"), ("GET", "/health")):
        headers = {"Origin": "https://example.com", "Access-Control-Request-Method": "POST"}
        answer = client.request(method, address, headers=headers)
        allowed = {name: value for name, value in answer.headers.items() if name == "access-control-allow-origin"}
        assert allowed == {}, (method, address)
