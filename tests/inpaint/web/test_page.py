"""The page in a real browser, used as a visitor would: with the mouse.

Chromium is looked for on the PATH, or is what the variable CHROMIUM names.
"""

from __future__ import annotations

import io
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("gradio", reason="needs the extra web")
pytest.importorskip("playwright", reason="needs playwright")

from playwright.sync_api import Browser, Download, Page, expect, sync_playwright

from inpaint.commands import main
from inpaint.inpainter import load
from inpaint.photo import read
from inpaint.web.filler import Filler
from inpaint.web.limits import Limits
from inpaint.web.marks import BOX, COPY_FROM
from inpaint.web.server import make_server

if TYPE_CHECKING:
    from playwright.sync_api import FloatRect

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: install the package chromium, or set the variable CHROMIUM"
)
PATIENCE = 180_000  # milliseconds: slow machines draw without a GPU
NARROW = {"width": 390, "height": 700}  # a phone


@pytest.fixture(scope="module")
def filler() -> Iterator[Filler]:
    with Filler([load(device="cpu")], waiting=1) as filler:
        yield filler


@pytest.fixture(scope="module")
def address(filler: Filler) -> Iterator[str]:
    with make_server(filler, Limits(waiting=1), port=0) as server:
        addresses: list[str] = []
        server.on_ready = addresses.append
        thread = threading.Thread(target=server.run)
        thread.start()
        while not addresses and thread.is_alive():
            time.sleep(0.05)
        yield addresses[0]
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 720, "height": 500})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.locator("#photograph input[type=file]").wait_for(state="attached")
    yield page
    elsewhere = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    context.close()
    assert not elsewhere


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (120, 161, 3), np.uint8)


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory, noise: np.ndarray) -> Path:
    """A PNG with EXIF."""
    exif = Image.Exif()
    exif[271] = "a camera"
    path = tmp_path_factory.mktemp("page") / "photo of mine.png"
    Image.fromarray(noise).save(path, exif=exif)
    return path


def drop(page: Page, photograph: Path) -> None:
    page.locator("#photograph input[type=file]").set_input_files(photograph)
    page.locator("#canvas").get_by_text("%").wait_for()


def shown_at(page: Page, colour: str) -> tuple[float, float]:
    """Where on the screen the pixels of the canvas are that are mostly red, green or blue: their middle."""
    box = box_of(page)
    picture = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)
    others = [channel for channel in range(3) if channel != "rgb".index(colour)]
    rows, columns = (picture[..., "rgb".index(colour)] - picture[..., others].max(-1) > 100).nonzero()
    inside = (rows >= box["y"]) & (columns >= box["x"])
    return float(columns[inside].mean()) + 0.5, float(rows[inside].mean()) + 0.5


def box_of(page: Page) -> FloatRect:
    canvas = page.locator("#canvas canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    return box


def stroke(page: Page, *points: tuple[float, float]) -> None:
    """Draws through points of the screen."""
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:] or points:
        page.mouse.move(*point)
    page.mouse.up()


def stroke_in_the_middle(page: Page, across: float = 0.0, right: float = 0.0) -> None:
    """A short stroke from the canvas's middle, or from beside it: shares of the canvas's height."""
    box = box_of(page)
    x, y = box["x"] + box["width"] / 2 + right * box["height"], box["y"] + box["height"] / 2
    stroke(page, (x, y - across * box["height"]), (x, y + across * box["height"]))


def fill(page: Page) -> None:
    page.get_by_role("button", name="Fill", exact=True).click()


def downloaded(page: Page, name: str) -> tuple[bytes, str]:
    """The content and the name of what a button downloads."""
    with page.expect_download() as waiting:
        page.get_by_role("button", name=name, exact=True).click()
    download: Download = waiting.value
    return Path(download.path()).read_bytes(), download.suggested_filename


def mask_of(page: Page) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(downloaded(page, "Mask")[0])))


def test_paint_fill_and_download(page: Page, photograph: Path, tmp_path: Path) -> None:
    drop(page, photograph)
    expect(page.get_by_text("161 x 120 pixels, 8 bits")).to_be_visible()
    stroke_in_the_middle(page, across=0.1)
    fill(page)
    page.get_by_role("button", name="Download", exact=True).wait_for()
    content, name = downloaded(page, "Download")
    mask, _ = downloaded(page, "Mask")
    assert name == "photo of mine_filled.png"

    (tmp_path / "mask.png").write_bytes(mask)
    arguments = ["fill", str(photograph), str(tmp_path / "mask.png"), "-o", str(tmp_path / "filled.png")]
    done = CliRunner().invoke(main, [*arguments, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert content == (tmp_path / "filled.png").read_bytes()

    hole = np.asarray(Image.open(io.BytesIO(mask)))
    changed = (read(content).samples != read(photograph).samples).any(-1)
    assert hole[60, 80] and 0.001 < hole.mean() < 0.2
    assert changed[hole].mean() > 0.5 and not changed[~hole].any()
    assert Image.open(io.BytesIO(content)).getexif()[271] == "a camera"


def test_undo_and_what_is_missing(page: Page, photograph: Path) -> None:
    drop(page, photograph)
    stroke_in_the_middle(page)
    page.get_by_role("button", name="Undo").click()
    fill(page)
    expect(page.get_by_text("nothing is marked: expected paint on what has to go")).to_be_visible()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("<b>letter.txt", b"Dear Sir or Madam,", "cannot read <b>letter.txt: expected a PNG"),
        ("half.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "half.png"),
    ],
)
def test_a_wrong_file_is_told(page: Page, tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    page.locator("#photograph input[type=file]").set_input_files(tmp_path / name)
    message = page.get_by_test_id("toast-body")
    expect(message).to_contain_text(words)
    assert not page.locator("#canvas").is_visible()


def test_copies_come_from_where_the_second_brush_was(page: Page, photograph: Path) -> None:
    drop(page, photograph)
    page.get_by_label(COPY_FROM.name).check()
    for right in (0.2, 0.3, 0.4):
        stroke_in_the_middle(page, across=0.3, right=right)
    page.get_by_role("button", name="More").click()
    type_box(page, left=10, top=30, width=60, height=60)
    page.get_by_label("Show the steps").check()
    fill(page)
    page.locator("#steps img").first.wait_for()
    picture = page.request.get(str(page.locator("#steps img").first.get_attribute("src"))).body()
    copied = np.ptp(np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")), axis=2) > 0  # all else is grey
    assert copied[~mask_of(page)].any() and not copied[:, 70:80].any() and not copied[:, :10].any()


def type_box(page: Page, **sides: int) -> None:
    for side, pixels in sides.items():
        page.get_by_label(f"Box: {side}").fill(str(pixels))


def test_boxes_by_corners_and_by_numbers(page: Page, photograph: Path) -> None:
    drop(page, photograph)
    page.get_by_label(BOX.name).check()
    stroke_in_the_middle(page, right=-0.1)
    box = box_of(page)
    stroke(page, (box["x"] + box["width"] / 2, box["y"] + 0.6 * box["height"]))
    page.get_by_role("button", name="More").click()
    type_box(page, left=150, top=3, width=20, height=7)
    page.get_by_label("Show the steps").check()
    fill(page)
    page.locator("#steps img").first.wait_for()
    hole = mask_of(page)
    in_numbers = np.zeros_like(hole)
    in_numbers[3:10, 150:] = True
    assert hole[in_numbers].all()
    rows, columns = (hole & ~in_numbers).nonzero()
    assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1) > 100  # a full rectangle
    expect(page.locator("#steps")).to_contain_text("match field")


def test_paint_lies_where_it_was_painted_at_4k(page: Page, tmp_path: Path) -> None:
    """Near two corners a patch is marked in another colour; dabs on what the screen shows of them hit them."""
    photograph = np.full((2160, 3841, 3), 128, np.uint8)
    photograph[200:260, 300:360] = (0, 255, 0)
    photograph[1900:1960, 3500:3560] = (0, 0, 255)
    Image.fromarray(photograph).save(tmp_path / "4k.png")
    drop(page, tmp_path / "4k.png")
    expect(page.get_by_text("3841 x 2160 pixels, 8 bits. Shown at 1/2")).to_be_visible()
    box_of(page)
    for colour in "gb":
        stroke(page, shown_at(page, colour))
    fill(page)
    page.get_by_role("button", name="Download", exact=True).wait_for()
    hole = mask_of(page)
    assert hole.shape == (2160, 3841)
    blocks = hole[:, :3840].reshape(1080, 2, 1920, 2)
    assert (blocks.all((1, 3)) == blocks.any((1, 3))).all()  # the preview's pixels
    for rows, columns, row, column in [
        (slice(0, 1080), slice(0, 1920), 229.5, 329.5),
        (slice(1080, None), slice(1920, None), 1929.5 - 1080, 3529.5 - 1920),
    ]:
        middle = [places.mean() for places in hole[rows, columns].nonzero()]
        assert np.abs(np.subtract(middle, (row, column))).max() < 16  # two pixels of the screen
    changed = (read(downloaded(page, "Download")[0]).samples != photograph).any(-1)
    assert not changed[~hole].any()


def test_cancel_and_a_full_queue(page: Page, photograph: Path, filler: Filler) -> None:
    drop(page, photograph)
    stroke_in_the_middle(page)
    go = threading.Event()
    tickets = [filler.submit(lambda turn: go.wait(60))]
    try:
        fill(page)
        while b"inpaint_waiting_tasks 1.0" not in filler.metrics.text():
            page.wait_for_timeout(50)
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_text("the work was cancelled")).to_be_visible()
        tickets.append(filler.submit(lambda turn: go.wait(60)))
        fill(page)
        expect(page.get_by_text("expected a free place in the queue")).to_be_visible()
    finally:
        go.set()
    for ticket in tickets:
        ticket.result()


def test_on_a_phone_nothing_is_wider_than_the_screen(page: Page, photograph: Path) -> None:
    page.set_viewport_size(NARROW)
    drop(page, photograph)
    page.get_by_role("button", name="More").click()
    stroke_in_the_middle(page)
    fill(page)
    page.get_by_role("button", name="Download", exact=True).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]


def test_every_control_has_a_name(page: Page, photograph: Path) -> None:
    drop(page, photograph)
    page.get_by_role("button", name="More").click()
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, input, textarea, select, [role=button]")]
        .filter((each) => each.checkVisibility() && !each.innerText?.trim() && !each.labels?.length
            && !each.ariaLabel && !each.title && !each.getAttribute("aria-labelledby"))
        .map((each) => each.outerHTML)"""
    )
    assert nameless == []
