"""One photograph from bytes to bytes."""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from inpaint.batch import task
from inpaint.batch.task import File, Given, Options
from inpaint.errors import InpaintError
from inpaint.marking import Marking


def png(pixels: np.ndarray, file_format: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, file_format)
    return stream.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
HOLE = np.zeros((24, 32), np.uint8)
HOLE[8:16, 10:22] = 255
GIVEN = Given(File("in/a.png", png(PIXELS)), File("masks/a.png", png(HOLE)), "a_filled.png")


def test_the_result_holds_the_known_pixels_and_another_hole(inpainter) -> None:
    result = task.fill(GIVEN, Options(), inpainter)
    filled = np.asarray(Image.open(io.BytesIO(result.content)))
    assert np.array_equal(filled[HOLE == 0], PIXELS[HOLE == 0]) and not np.array_equal(filled, PIXELS)
    assert result.notes == ()


def test_steps_are_the_same_as_all_at_once_and_travel_between_processes(inpainter) -> None:
    given, options = pickle.loads(pickle.dumps((GIVEN, Options(Marking(boxes=((0, 0, 4, 4),)), feather=1))))
    job = task.prepare(given, options)
    assert job.hole[:4, :4].all() and job.hole.sum() == 16 + 8 * 12 and job.feather == 1
    content = task.encode(inpainter.fill(job), "x.webp")
    assert content[8:12] == b"WEBP"
    assert content == task.fill(replace(given, output="y.webp"), options, inpainter).content


def test_outlines_and_labels_come_as_bytes(fake) -> None:
    outline = {"points": [[10, 8], [22, 8], [22, 16], [10, 16]], "shape_type": "polygon"}
    labelme = {"imageWidth": 32, "imageHeight": 24, "shapes": [outline]}
    mask = File("a.JSON", json.dumps(labelme).encode())
    assert np.array_equal(task.prepare(replace(GIVEN, mask=mask), Options()).hole, HOLE > 0)
    images = [{"id": n, "file_name": f"{n}/a{n}.png", "width": 32, "height": 24} for n in (1, 2)]
    annotation = {"image_id": 2, "segmentation": [[10, 8, 22, 8, 22, 16, 10, 16]]}
    coco = File("all.json", json.dumps({"images": images, "annotations": [annotation]}).encode())
    given = replace(GIVEN, photograph=replace(GIVEN.photograph, name="in/a2.png"), mask=coco)
    assert np.array_equal(task.prepare(given, Options()).hole, HOLE > 0)
    labels = File("a.png", png(HOLE // 255 * 3))
    options = Options(Marking(labels=(3,)))
    assert np.array_equal(task.prepare(replace(GIVEN, mask=labels), options).hole, HOLE > 0)


def test_colours_are_looked_for_in_the_mask_or_in_the_photograph() -> None:
    painted = PIXELS // 4
    painted[HOLE > 0] = (255, 0, 255)
    options = Options(Marking(colours=("magenta", "magenta"), dilate=0))
    for given in (
        replace(GIVEN, mask=File("m.png", png(painted))),
        replace(GIVEN, photograph=File("a.png", png(painted)), mask=None),
    ):
        assert np.array_equal(task.prepare(given, options).hole, HOLE > 0)


def test_sources_and_exclusions_reach_the_job() -> None:
    source, exclude = np.full_like(HOLE, 255), np.zeros_like(HOLE)
    source[0], exclude[-1] = 0, 255
    mask = np.zeros_like(HOLE)
    mask[18, 26] = 255
    options = Options(source=File("s", png(source)), exclude=File("e", png(exclude)))
    barred = task.prepare(replace(GIVEN, mask=File("m", png(mask))), options).barred
    assert barred is not None and np.array_equal(np.flatnonzero(barred.all(1)), [0, 23]) and barred.sum() == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"photograph": File("in/a.png", png(PIXELS)[:200])}, "cannot read in/a.png: .*truncated or damaged"),
        ({"photograph": File("in/a.png", b"hello")}, "cannot read in/a.png: expected a PNG"),
        ({"photograph": File("in/a.png", b"")}, "cannot read in/a.png: expected a PNG"),
        ({"mask": File("m.png", b"")}, "cannot read m.png"),
        ({"mask": File("m.json", b"[")}, "cannot read m.json: expected COCO"),
        ({"mask": File("m.png", png(HOLE[1:]))}, "m.png is 32x23, the photograph is 32x24"),
        ({"mask": File("m.png", png(HOLE * 0))}, "m.png marks no hole"),
        ({"mask": File("m.png", png(PIXELS))}, "m.png is a copy of the photograph"),
        ({"photograph": File("a.png", png(np.dstack([PIXELS, HOLE]))), "output": "a.jpg"}, "a.jpg: JPEG has no alpha"),
    ],
)
def test_what_is_wrong_is_named(change, message: str) -> None:
    with pytest.raises(InpaintError, match=message) as raised:
        task.prepare(replace(GIVEN, **change), Options())
    assert task.reason(raised.value) == " ".join(str(raised.value).split())


def test_reasons_are_one_line() -> None:
    assert task.reason(MemoryError()).startswith("not enough memory")
    assert task.reason(RuntimeError("CUDA out of\nmemory")).startswith("not enough memory")
    assert task.reason(ValueError("a\n b")) == "unexpected ValueError: a b"
    assert task.reason(FileNotFoundError(2, "No such file", "x.png")) == "x.png: No such file"


def test_the_key_follows_from_all_that_the_result_depends_on(tmp_path) -> None:
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(b"1")
    options = Options(weights=str(weights))
    mine = options.digest()
    weights.write_bytes(b"2")
    assert task.key(GIVEN, Options().digest()) == task.key(GIVEN, Options(max_megapixels=7).digest())
    renamed = replace(GIVEN, photograph=replace(GIVEN.photograph, name="b.png"), output="b_filled.png")
    assert task.key(GIVEN, Options().digest()) == task.key(renamed, Options().digest())
    mask = File("masks/a.png", png(np.roll(HOLE, 1)))
    keys = [
        task.key(GIVEN, Options().digest()),
        task.key(replace(GIVEN, mask=None), Options().digest()),
        task.key(replace(GIVEN, mask=mask), Options().digest()),
        task.key(replace(GIVEN, mask=replace(mask, name="a.json")), Options().digest()),
        task.key(replace(GIVEN, photograph=File("in/a.png", png(PIXELS + 1))), Options().digest()),
        task.key(replace(GIVEN, output="a.tif"), Options().digest()),
        task.key(GIVEN, mine),
        task.key(GIVEN, options.digest()),
    ]
    changes = [
        {"marking": Marking(dilate=0)},
        {"marking": Marking(threshold=0.5)},
        {"source": mask},
        {"exclude": mask},
        {"scales": (24,)},
        {"feather": 1},
        {"page": 2},
        {"precision": "float32"},
        {"max_memory": 1e9},
    ]
    keys += [task.key(GIVEN, Options(**change).digest()) for change in changes]
    assert len(set(keys)) == len(keys)


def test_unknown_weights_are_named() -> None:
    with pytest.raises(InpaintError, match="nothing.safetensors: expected weights"):
        Options(weights="nothing.safetensors").digest()
