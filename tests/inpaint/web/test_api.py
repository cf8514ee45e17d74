from __future__ import annotations

import base64
import io
import json
import os
import tempfile
import time

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra web")

import anyio
from fastapi.testclient import TestClient

import inpaint.marking
import inpaint.work
from inpaint.commands.fill import fill as fill_command
from inpaint.errors import InpaintError
from inpaint.web.api import NOTES, make_api
from inpaint.web.credentials import Credentials
from inpaint.web.download import MEDIA_TYPES
from inpaint.web.fill_form import FillForm
from inpaint.web.filler import Filler
from inpaint.web.limits import Limits
from inpaint.web.server import LOCAL_NAMES, is_local
from inpaint.web.upload import Upload
from inpaint.work import prepare


def client_of(filler: Filler, limits: Limits | None = None, **options) -> TestClient:
    return TestClient(make_api(filler, limits or Limits(), **options), raise_server_exceptions=False)


def has_temporary_files_open() -> bool:
    """Whether this process has an unnamed temporary file open: what a large upload lies in."""
    folder = os.path.realpath(tempfile.gettempdir())
    links = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return any(os.path.exists(link) and os.readlink(link).startswith(folder + "/") for link in links)


# Filling


def deep(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.uint16) * 257


def file_of(kind: str, pixels: np.ndarray) -> bytes:
    """A photograph with metadata."""
    stream = io.BytesIO()
    if kind == "tiff":
        tifffile.imwrite(stream, deep(pixels), photometric="rgb", description="of a test", resolution=(300, 300))
    elif kind == "jpeg":
        exif = Image.Exif()
        exif[0x010E] = "of a test"
        Image.fromarray(pixels).save(stream, "JPEG", quality=90, exif=exif, comment=b"of a test")
    else:
        Image.fromarray(pixels).save(stream, kind.upper(), dpi=(300, 300))
    return stream.getvalue()


@pytest.mark.parametrize(("kind", "extension"), [("png", ".png"), ("jpeg", ".jpg"), ("tiff", ".tif"), ("bmp", ".bmp")])
def test_the_result_is_the_commands_file(kind, extension, pixels, hole, mask, inpainter, monkeypatch, tmp_path):
    photo, out = tmp_path / f"photo{extension}", tmp_path / f"out{extension}"
    photo.write_bytes(file_of(kind, pixels))
    (tmp_path / "mask.png").write_bytes(mask)
    monkeypatch.setattr(inpaint, "load", lambda *arguments, **options: inpainter, raising=False)
    arguments = [photo, tmp_path / "mask.png", "-o", out, "--dilate", 2, "--quiet"]
    ran = CliRunner().invoke(fill_command, list(map(str, arguments)), catch_exceptions=False)
    assert ran.exit_code == 0, ran.output

    with Filler([inpainter]) as filler, client_of(filler) as client:
        files = {"photo": (photo.name, photo.read_bytes()), "mask": ("mask.png", mask)}
        answer = client.post("/fill", files=files, data={"dilate": "2"})
    assert answer.status_code == 200, answer.text
    assert answer.content == out.read_bytes()
    assert answer.headers["content-type"] == f"image/{kind}"
    assert answer.headers["content-disposition"].startswith(f'attachment; filename="photo_filled{extension}"; ')
    assert answer.headers["cache-control"] == "no-store" and answer.headers["x-content-type-options"] == "nosniff"
    if kind != "jpeg":
        given, filled = (inpaint.photo.read(content).samples for content in (photo.read_bytes(), answer.content))
        grown = inpaint.holes.dilate_hole(hole, 2)
        assert np.array_equal(given[~grown], filled[~grown]) and not np.array_equal(given[grown], filled[grown])
        assert given.dtype == filled.dtype


def test_the_fields_are_the_commands_options():
    names = {name.lstrip("-").replace("-", "_") for option in fill_command.params for name in option.opts[:1]}
    of_files = {"arguments", "o", "explain", "save_stages", "overwrite", "quiet", "json", "variants"}
    of_the_server = {"weights", "device", "precision", "threads", "max_memory", "max_megapixels"}
    assert names - of_files - of_the_server == set(FillForm.model_fields) - {"photo", "variant", "format"}


OPTIONS = {
    "threshold": ("0.25", {"threshold": 0.25}),
    "dilate": ("3", {"dilate": 3}),
    "invert_mask": ("true", {"invert": True}),
    "resize_mask": ("true", {"resize": True}),
    "feather": ("4", {"feather": 4}),
    "variant": ("2", {"variant": 2}),
    "scales": ("16,32", {"scales": [16, 32]}),
    "page": ("1", {"page": 1}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_reaches_the_use_case(name, client, files, red, monkeypatch):
    given = {}

    def remembering(image, mask, **options):
        given.update(options)
        return prepare(image, mask, **options)

    monkeypatch.setattr(inpaint.marking, "prepare", remembering)
    value, expected = OPTIONS[name]
    answer = client.post("/fill", files=files, data={name: value})
    assert answer.status_code == 200, answer.text
    unchanged = {"threshold": None, "invert": False, "dilate": None, "resize": False, "feather": 0, "variant": 0}
    unchanged |= {"scales": None, "page": 1, "source": None, "exclude": None, "max_megapixels": Limits().megapixels}
    assert given == unchanged | expected


def test_every_way_to_mark_a_hole(client, files, red, pixels, hole):
    painted = pixels.copy()
    painted[2:5, 3:9] = (255, 0, 255)
    labels = np.where(hole, 7, 0).astype(np.uint8)
    transparent = np.dstack([pixels, np.where(hole, 0, 255).astype(np.uint8)])
    nan = (pixels / np.float32(255)).astype(np.float32)
    nan[hole] = np.nan
    floats = io.BytesIO()
    tifffile.imwrite(floats, nan, photometric="rgb")
    box = np.zeros_like(hole)
    box[2:6, 1:9] = box[20:22, 30:33] = True
    source = np.zeros((64, 64), bool)
    source[:, :32] = True
    large, spot = ("p.png", encoded_png(np.zeros((64, 64, 3), np.uint8))), {"box": "20,20,5,5"}
    photo = files["photo"]

    def marked(photo, fields=None, **others) -> np.ndarray:
        answer = client.post("/fill", files={"photo": photo, **others}, data=fields or {})
        assert answer.status_code == 200, answer.text
        return red.jobs[-1].hole

    png = encoded_png
    assert np.array_equal(marked(photo, {"box": ["1,2,8,4", "30,20,3,2"]}), box)
    assert marked(("p.png", png(painted)), {"mask_colour": "#f0f", "dilate": "0"})[2:5, 3:9].all()
    assert marked(photo, {"mask_colour": ["red", "#f0f"]}, mask=("m.png", png(both_colours(hole))))[8:24, 10:30].all()
    assert np.array_equal(marked(photo, {"label": "7"}, mask=("m.png", png(labels))), hole)
    assert np.array_equal(marked(("p.png", png(transparent)), {"mask_from_alpha": "true"}), hole)
    assert np.array_equal(marked(("p.tif", floats.getvalue()), {"mask_from_nan": "true"}), hole)
    assert marked(large, spot, source=("s.png", png(source))).sum() == 25
    assert np.array_equal(red.jobs[-1].barred, ~source)
    assert marked(large, spot, exclude=("s.png", png(source))).sum() == 25
    assert np.array_equal(red.jobs[-1].barred, source)


def encoded_png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def both_colours(hole: np.ndarray) -> np.ndarray:
    """Half of the hole red, half magenta."""
    picture = np.zeros((*hole.shape, 3), np.uint8)
    picture[hole] = (255, 0, 0)
    picture[:16][hole[:16]] = (255, 0, 255)
    return picture


def test_another_format_with_its_notes(client, files):
    answer = client.post("/fill", files=files, data={"format": "jpeg"})
    assert answer.headers["content-type"] == "image/jpeg" and answer.content.startswith(b"\xff\xd8\xff")
    assert answer.headers["content-disposition"].endswith("; filename*=UTF-8''photo_filled.jpg")
    answer = client.post("/fill", files=files, data={"format": "gif"})
    assert answer.status_code == 422 and "cannot write" in answer.json()["error"]


def test_notes_are_ascii_json(client, files, pixels):
    mask = np.zeros((32, 40), np.uint8)
    mask[8:24, 10:30] = 9
    files["mask"] = ("Maské☃.png", encoded_png(mask))
    answer = client.post("/fill", files=files)
    assert json.loads(answer.headers[NOTES]) == ["Maské☃.png holds 0 and 9 alone: 9 is taken for the hole"]
    assert answer.headers[NOTES].isascii()


def test_names_of_files_are_only_names(client, files, red, tmp_path):
    outside = tmp_path / "secret.png"
    outside.write_text("secret")
    for name in (
        str(outside),
        "../../etc/passwd.png",
        "C:\\x\\photo.png",
        'a"b\\.png',
        "x" * 500 + ".png",
        "\r\nX: y.png",
    ):
        answer = client.post("/fill", files={"photo": (name, files["photo"][1]), "mask": (name, files["mask"][1])})
        assert answer.status_code == 200, answer.text
        said = answer.headers["content-disposition"]
        assert "/" not in said and "\\" not in said and len(said) < 320
        assert "x" not in answer.headers


def test_an_uploads_name():
    for given, name in {
        "photo.png": "photo.png",
        "/etc/photo.png": "photo.png",
        "C:\\x\\photo.png": "photo.png",
        "pho\r\n\0to.png": "photo.png",
        "é☃.png": "é☃.png",
        "..": "..",
        "x" * 500 + ".png": "x" * 96 + ".png",
        "": "photo",
        "\n": "photo",
    }.items():
        assert Upload.of(given, b"", "photo").name == name
    assert Upload.of(None, b"", "photo").opened().name == "photo"


# Refusing


def unfit() -> dict[str, tuple[dict, dict, str]]:
    """Files, fields and a part of the answer."""
    photo = ("photo.png", encoded_png(np.arange(32 * 40 * 3, dtype=np.uint8).reshape(32, 40, 3)))
    white = np.zeros((32, 40), np.uint8)
    white[4:8, 4:8] = 255
    mask = ("mask.png", encoded_png(white))
    both = {"photo": photo, "mask": mask}
    other = ("mask.png", encoded_png(white[:20]))
    return {
        "no photograph": ({"mask": mask}, {}, "photo: expected a value, got none; send it as a field of the form"),
        "a photograph as text": ({"mask": mask}, {"photo": "x"}, "photo: expected a file, got text; send it as a file"),
        "no mask": ({"photo": photo}, {}, "expected a mask, got none; send one as mask"),
        "an option without a mask": ({"photo": photo}, {"box": "1,1,2,2", "threshold": "0.5"}, "need a mask, got none"),
        "no picture": ({"photo": ("photo.png", b"text"), "mask": mask}, {}, "cannot read photo.png: expected a PNG"),
        "an empty file": ({"photo": ("photo.png", b""), "mask": mask}, {}, "cannot read photo.png: expected a PNG"),
        "half a picture": (
            {"photo": ("p.png", photo[1][: len(photo[1]) // 2]), "mask": mask},
            {},
            "truncated or damaged",
        ),
        "a mask of another size": ({"photo": photo, "mask": other}, {}, "or stretch it with resize_mask"),
        "outlines": ({"photo": photo, "mask": ("m.JSON", b"{}")}, {}, "m.JSON: expected a picture, got outlines; draw"),
        "outlines to exclude": (both | {"exclude": ("m.json", b"{}")}, {}, "m.json: expected a picture, got outlines"),
        "an unknown field": (both, {"treshold": "0.5"}, "treshold: expected one of the fields that /docs lists"),
        "out of range": (both, {"threshold": "2"}, "threshold: expected less than 1, got '2'; see /docs"),
        "no number": (both, {"dilate": "two"}, "dilate: expected valid integer, unable to parse"),
        "no box": (both, {"box": "1,2,3"}, "box: expected string should match pattern"),
        "no colour": (both, {"mask_colour": "reddish"}, "expected a colour such as red or #ff0000, got 'reddish'"),
        "no format": (both, {"format": "exe"}, "format: expected 'png', 'jpeg'"),
        "unfit scales": (both, {"scales": "32,16"}, "scales: expected growing short sides"),
        "a box outside": ({"photo": photo}, {"box": "100,100,5,5"}, "lies outside the photograph of 40x32 pixels"),
        "no page": (both, {"page": "2"}, "expected page 1, got 2"),
    }


@pytest.mark.parametrize("name", unfit())
def test_what_is_unfit_is_refused_in_our_words(name, client):
    files, fields, words = unfit()[name]
    answer = client.post("/fill", files=files, data=fields)
    assert answer.status_code == 422 and answer.headers["content-type"] == "application/json"
    assert words in answer.json()["error"] and list(answer.json()) == ["error"]
    assert "--" not in answer.text


def test_bodies_that_are_no_form_are_refused(client):
    assert client.post("/fill", json={"photo": "x"}).status_code == 422
    answer = client.post("/fill", content=b"x", headers={"Content-Type": "multipart/form-data; boundary=q"})
    assert answer.status_code == 400 and "expected a form (multipart/form-data), got" in answer.json()["error"]
    answer = client.get("/fill")
    assert answer.status_code == 405 and "expected a method that /docs lists" in answer.json()["error"]
    answer = client.get("/nowhere")
    assert answer.status_code == 404 and "expected an address that /docs lists" in answer.json()["error"]


def test_too_many_megapixels_are_refused_before_they_are_decoded(filler, files):
    bomb = io.BytesIO()
    Image.new("1", (6_000, 6_000)).save(bomb, "PNG")  # 5 kB
    with client_of(filler, Limits(megapixels=1)) as client:
        assert client.post("/fill", files=files).status_code == 200
        for field in ("photo", "mask"):
            answer = client.post("/fill", files=files | {field: ("bomb.png", bomb.getvalue())})
            words = "cannot read bomb.png: it has 36.0 megapixels, the limit is 1; give a smaller one"
            assert (answer.status_code, answer.json()) == (422, {"error": words})


def test_an_upload_beyond_the_limit_is_refused_by_its_length(filler, files):
    with client_of(filler, Limits(upload=2_000)) as client:
        answer = client.post("/fill", files=files)
        assert answer.status_code == 413
        assert answer.json() == {"error": "expected a request of at most 2000 bytes, got more; send smaller files"}
        assert client.post("/fill", files=files, headers={"Content-Length": "-5"}).status_code in (400, 413)


def scope_of(path: str = "/fill", headers: tuple = ()) -> dict:
    form = (b"content-type", b"multipart/form-data; boundary=q")
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    return scope | {"headers": [form, *headers], "http_version": "1.1", "scheme": "http", "server": ("x", 80)}


def asked(api, receive, scope: dict | None = None) -> tuple[int, dict, dict]:
    """Status, headers and JSON of the answer to a request whose body ``receive`` gives."""
    sent: list[dict] = []

    async def send(message) -> None:
        sent.append(message)

    anyio.run(api, scope or scope_of(), receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, json.loads(body)


def test_an_upload_beyond_the_limit_is_refused_while_it_streams(filler):
    received = 0
    start = b'--q\r\nContent-Disposition: form-data; name="photo"; filename="p"\r\n\r\n'

    async def receive():
        nonlocal received
        received += 1
        assert received < 100, "it reads on"
        return {"type": "http.request", "body": start if received == 1 else bytes(1_000), "more_body": True}

    status, headers, body = asked(make_api(filler, Limits(upload=10_000)), receive)
    assert status == 413 and received == 11 and headers["connection"] == "close"
    assert body == {"error": "expected a request of at most 10000 bytes, got more; send smaller files"}


def test_a_full_service_refuses_before_it_reads_the_upload(patient, files):
    async def receive():
        raise AssertionError("it was read")

    with Filler([patient], waiting=0) as filler:
        api = make_api(filler, Limits(waiting=0))
        with TestClient(api) as client, anyio.from_thread.start_blocking_portal() as portal:
            first = portal.start_task_soon(anyio.to_thread.run_sync, lambda: client.post("/fill", files=files))
            assert patient.begun.acquire(timeout=20)
            status, headers, body = asked(api, receive)
            assert status == 503 and headers["retry-after"] == "1"
            assert body == {"error": "expected a free place in the queue, got a full one; try again in 1 s"}
            patient.go()
            assert first.result().status_code == 200
            assert client.post("/fill", files=files).status_code == 200


def test_a_queue_that_others_have_filled_refuses_too(patient, files):
    with Filler([patient], waiting=0) as filler, client_of(filler) as client:
        ticket = filler.submit(lambda turn: turn.fill(prepare(np.zeros((8, 8), np.uint8), np.eye(8, dtype=bool))))
        answer = client.post("/fill", files=files)
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
        patient.go()
        assert ticket.result()


def test_the_time_limit(patient, files):
    with Filler([patient], timeout=0.2) as filler, client_of(filler, Limits(timeout=0.2)) as client:
        answer = client.post("/fill", files=files)
        assert answer.status_code == 504 and "expected a result within 0.2 s, got none" in answer.json()["error"]
        patient.go()


def test_an_upload_that_stalls_ends(filler):
    async def receive():
        await anyio.sleep(30)

    status, headers, body = asked(make_api(filler, Limits(timeout=0.05)), receive)
    assert status == 408 and headers["connection"] == "close"
    assert body == {"error": "expected the whole request within 0.15 s, got a part of it; send it again"}


def form_body(files: dict) -> bytes:
    parts = [
        b'--q\r\nContent-Disposition: form-data; name="%b"; filename="x.png"\r\n\r\n%b\r\n' % (name.encode(), content)
        for name, (_, content) in files.items()
    ]
    return b"".join(parts) + b"--q--\r\n"


def test_a_client_that_goes_away_cancels_its_work(patient, files):
    messages = [{"type": "http.request", "body": form_body(files)}, {"type": "http.disconnect"}]

    async def receive():
        if len(messages) == 1:  # the body is read: go away once the work has begun
            await anyio.to_thread.run_sync(lambda: patient.begun.acquire(timeout=20))
        return messages.pop(0)

    with Filler([patient]) as filler:
        status, _, _ = asked(make_api(filler, Limits()), receive)
        patient.go()
        end = time.monotonic() + 20
        while 'outcome="cancelled"} 1.0' not in filler.metrics.text().decode():
            assert time.monotonic() < end
            time.sleep(0.01)
    assert patient.stages == 1 and not messages and status == 503


def test_errors_of_the_server_say_nothing_about_it(filler, files, red, monkeypatch):
    def fill(*arguments, **options):
        raise KeyError("/home/secret")

    monkeypatch.setattr(red, "fill", fill)
    with client_of(filler) as client:
        answer = client.post("/fill", files=files)
    assert answer.status_code == 500
    assert answer.json() == {"error": "an error of the server; try another photograph, or tell who runs the server"}


def test_temporary_files_are_removed(client, files, pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    large = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (800, 800, 3), dtype=np.uint8)).save(large, "PNG")
    assert len(large.getvalue()) > 2**20  # beyond what is kept in memory
    assert client.post("/fill", files={"photo": ("p.png", large.getvalue())}).status_code == 422
    assert (
        client.post("/fill", files={"photo": ("p.png", large.getvalue())}, data={"box": "1,1,5,5"}).status_code == 200
    )
    assert list(tmp_path.iterdir()) == [] and not has_temporary_files_open()


# Who may ask


def basic(text: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}


def test_auth(filler, files):
    with client_of(filler, credentials=Credentials.of("anna:päss:word")) as client:
        assert client.post("/fill", files=files, headers=basic("anna:päss:word")).status_code == 200
        wrong = [{}, basic("anna:wrong"), basic("anna"), basic(""), {"Authorization": "Basic é".encode()}]
        wrong += [{"Authorization": "Bearer x"}, {"Authorization": basic("anna:päss:word")["Authorization"][6:]}]
        for headers in wrong:
            for method, path in (("POST", "/fill"), ("GET", "/metrics"), ("GET", "/docs"), ("GET", "/openapi.json")):
                answer = client.request(method, path, headers=headers)
                assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Basic ")
                assert "expected the user and password of this server" in answer.json()["error"]
        assert client.get("/metrics", headers=basic("anna:päss:word")).status_code == 200
        assert client.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize("text", ["", "anna", ":word", "anna:"])
def test_auth_of_another_form_is_refused_and_not_repeated(text):
    with pytest.raises(InpaintError, match="auth: expected USER:PASSWORD, got another form") as refused:
        Credentials.of(text)
    assert not text or text not in str(refused.value)
    assert "word" not in repr(Credentials.of("anna:word"))


def test_other_sites_pages_make_no_requests(client, files):
    assert client.post("/fill", files=files, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
    answer = client.post("/fill", files=files, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403 and "got one of another site" in answer.json()["error"]
    assert client.get("/docs", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200
    answer = client.get("/openapi.json", headers={"Origin": "https://example.org"})
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_which_addresses_are_local():
    assert all(is_local(host) for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"))
    assert not any(is_local(host) for host in ("0.0.0.0", "::", "192.168.1.2", "example.org"))
    assert set(LOCAL_NAMES) == {"localhost", "127.0.0.1", "[::1]"}


# Watching, and the description


def test_health_and_metrics(filler, client, files):
    client.post("/fill", files=files)
    client.post("/fill", files={"photo": files["photo"]})
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert 'inpaint_tasks_total{outcome="done"} 1.0' in answer.text
    assert 'inpaint_tasks_total{outcome="refused"} 1.0' in answer.text
    assert "process_resident_memory_bytes" in answer.text
    assert client.get("/health").json() == {"status": "ok"}
    filler.close()
    answer = client.get("/health")
    assert answer.status_code == 503 and "expected a worker for each device" in answer.json()["error"]


def test_the_description_is_complete(client):
    described = client.get("/openapi.json").json()
    form = described["components"]["schemas"]["FillForm"]
    assert form["required"] == ["photo"] and form["additionalProperties"] is False
    assert all(field["description"].endswith(".") for field in form["properties"].values())
    fill = described["paths"]["/fill"]["post"]
    assert list(fill["requestBody"]["content"]) == ["multipart/form-data"]
    assert set(fill["responses"]["200"]["content"]) == set(MEDIA_TYPES.values())
    assert set(fill["responses"]) >= {"200", "401", "413", "422", "503", "504"}
    for status, answer in fill["responses"].items():
        if status != "200":
            assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/Error")
    assert "/openapi.json" in client.get("/docs").text
