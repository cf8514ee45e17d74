"""Whatever photographs, masks and options come: the command fills or refuses, and never changes a known pixel.

The networks are replaced by a red filling. INPAINT_FUZZ=10000 sets how many calls are tried; without it, a few.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from PIL import Image

from inpaint.commands import main
from inpaint.photo import read

CALLS = int(os.environ.get("INPAINT_FUZZ", "60"))
LOSSLESS = (".png", ".webp", ".tif", ".tiff")


def picture(draw: st.DrawFn, height: int, width: int) -> np.ndarray:
    """Samples of a photograph: noise, a smooth ramp, or one colour."""
    random = np.random.default_rng(draw(st.integers(0, 99)))
    kind, channels = draw(st.sampled_from(["noise", "ramp", "flat"])), draw(st.sampled_from([1, 2, 3, 4]))
    pixels = random.integers(0, 256, (height, width, channels), np.uint8)
    if kind == "ramp":
        pixels[:] = np.linspace(0, 255, height * width).reshape(height, width, 1)
    elif kind == "flat":
        pixels[:] = pixels[0, 0]
    if channels in (2, 4) and draw(st.booleans()):
        pixels[..., -1] = np.where(random.random((height, width)) < 0.2, random.integers(0, 255), 255)
    return pixels


def as_file(draw: st.DrawFn, pixels: np.ndarray, suffix: str) -> bytes:
    """Encoded, in some mode, turned in some way, and now and then damaged."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    mode = draw(st.sampled_from([None] * 8 + ["1", "P", "L", "RGB", "I;16", "I", "F", "CMYK"]))
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    elif mode in ("I", "F"):
        image = Image.fromarray(pixels[..., 0].astype(np.int32 if mode == "I" else np.float32))
    elif mode is not None:
        image = image.convert(mode)
    exif = Image.Exif()
    exif[274] = draw(st.sampled_from([1] * 9 + [3, 6, 9]))
    stream = io.BytesIO()
    formats = {".jpg": "JPEG", ".tif": "TIFF", ".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF"}
    try:
        image.save(stream, formats.get(suffix, "PNG"), exif=exif)
    except (OSError, ValueError, TypeError):  # a mode that the format does not have
        image.convert("L").save(stream, "PNG")
    content = stream.getvalue()
    damage = draw(st.sampled_from([None] * 28 + ["cut", "byte"]))
    if damage == "cut":
        return content[: draw(st.integers(0, len(content)))]
    if damage == "byte":
        place = draw(st.integers(0, len(content) - 1))
        return content[:place] + bytes([content[place] ^ draw(st.integers(1, 255))]) + content[place + 1 :]
    return content


def mask_file(draw: st.DrawFn, height: int, width: int, photograph: np.ndarray) -> tuple[str, bytes]:
    """The extension and content of a mask of some kind."""
    random = np.random.default_rng(draw(st.integers(0, 99)))
    hole = np.zeros((height, width), bool)
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2]))):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        hole[top : top + draw(st.integers(1, height)), left : left + draw(st.integers(1, width))] = True
    kind = draw(
        st.sampled_from(["hard", "hard", "soft", "one", "labels", "strokes", "photograph", "outline", "numbers"])
    )
    if kind == "outline":
        corners = st.lists(st.tuples(st.integers(-5, 50), st.integers(-5, 50)), min_size=0, max_size=5)
        shapes = [{"points": draw(corners), "shape_type": draw(st.sampled_from(["polygon", "rectangle", "circle"]))}]
        document: dict[str, Any] = {"shapes": shapes, "imageHeight": height, "imageWidth": width}
        return ".json", json.dumps(document).encode()[: draw(st.sampled_from([None] * 9 + [20]))]
    values = {
        "hard": hole * np.uint8(255),
        "soft": np.minimum(255, hole * 200 + random.integers(0, 60, hole.shape)).astype(np.uint8),
        "one": hole.astype(np.uint8),
        "labels": random.integers(0, 5, hole.shape).astype(np.uint8),
        "photograph": photograph[..., 0],
        "numbers": random.integers(0, 256, hole.shape).astype(np.uint8),
    }
    if kind == "strokes":
        pixels = np.zeros((height, width, 4), np.uint8)
        pixels[hole] = (*random.choice([0, 255], 3), 255)
    else:
        pixels = values[kind][..., None]
    suffix = draw(st.sampled_from([".png", ".png", ".jpg", ".tif", ".gif"]))
    return suffix, as_file(draw, pixels, suffix)


@st.composite
def calls(draw: st.DrawFn) -> tuple[dict[str, bytes], list[str], bytes | None]:
    """Files by name, the arguments of the command, and standard input."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(2, 40))
    pixels = picture(draw, height, width)
    suffix = draw(st.sampled_from([".png", ".png", ".jpg", ".webp", ".tif", ".bmp", ".gif", ".xyz"]))
    files = {f"photo{suffix}": as_file(draw, pixels, suffix)}
    arguments = [draw(st.sampled_from(["fill", "fill", "fill", "mask"])), f"photo{suffix}"]
    odd = draw(st.sampled_from([0] * 19 + [1]))
    extension, content = mask_file(draw, height + odd, width, np.pad(pixels, [(0, odd), (0, 0), (0, 0)], mode="edge"))
    files[f"mask{extension}"] = content
    if draw(st.sampled_from([True] * 9 + [False])):
        arguments += [*draw(st.sampled_from([[], ["--mask"]])), f"mask{extension}"]
    start, side = st.integers(-2, 30), st.integers(0, 20)
    for option, value in {
        "--box": st.builds(lambda *sides: ",".join(map(str, sides)), start, start, side, side),
        "--mask-colour": st.sampled_from(["red", "#000", "white", "no colour"]),
        "--mask-from-alpha": st.none(),
        "--mask-from-nan": st.none(),
        "--label": st.integers(-1, 5).map(str),
        "--invert-mask": st.none(),
        "--threshold": st.floats(0, 1, allow_nan=False).map(str),
        "--dilate": st.integers(-1, 20).map(str),
        "--resize-mask": st.none(),
        "--source": st.just(f"mask{extension}"),
        "--exclude": st.just(f"mask{extension}"),
        "--feather": st.integers(0, 5).map(str),
        "--variants": st.integers(0, 3).map(str),
        "--scales": st.sampled_from(["16", "16,32", "20,40", "x"]),
        "--explain": st.sampled_from(["why.png", ".", "photo.png"]),
        "--save-stages": st.sampled_from(["steps", f"photo{suffix}"]),
        "--json": st.none(),
        "--overwrite": st.none(),
        "--max-megapixels": st.sampled_from(["0.001", "1"]),
    }.items():
        if draw(st.sampled_from([True] + [False] * 15)):
            arguments += [option] if (drawn := draw(value)) is None else [option, drawn]
    output = draw(
        st.sampled_from([None, "out.png", "out.jpg", "out.tif", "out.webp", "out.xyz", "-", ".", "a/out.png"])
    )
    arguments += [] if output is None else ["-o", output]
    if draw(st.sampled_from([True] + [False] * 7)):
        name = draw(st.sampled_from(list(files)))
        return files, ["-" if argument == name else argument for argument in arguments], files[name]
    return files, arguments, None


def run(arguments: list[str], given_input: bytes | None, folder: str) -> Result:
    before = Path.cwd()
    os.chdir(folder)
    try:
        return CliRunner().invoke(main, arguments, input=given_input)
    finally:
        os.chdir(before)


@settings(max_examples=CALLS, deadline=None, suppress_health_check=list(HealthCheck))
@given(calls())
def test_the_command_fills_or_refuses(fake, call) -> None:
    files, arguments, given_input = call
    fake.jobs.clear()
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        result = run(arguments, given_input, folder)
        there = {path.relative_to(folder).as_posix(): path for path in Path(folder).rglob("*") if path.is_file()}
        event(f"{arguments[0]}: exit code {result.exit_code}")
        assert isinstance(result.exception, SystemExit | None), (arguments, result.exception)
        assert result.exit_code in (0, 1, 2) and "Traceback" not in result.output
        for name, content in files.items():
            if "--overwrite" not in arguments:
                assert there[name].read_bytes() == content
        if result.exit_code:
            assert not result.stdout_bytes and set(there) == set(files)
            last = result.stderr.splitlines()[-1]
            assert last.startswith("inpaint: " if result.exit_code == 1 else "Error: "), result.stderr
            return
        if arguments[0] == "mask":
            assert len(there) == len(files) + 1
            return
        assert fake.jobs
        written = [path for name, path in there.items() if "filled" in name or name.startswith("out")]
        if "-" in arguments and not written and "-o" not in arguments or arguments[-2:] == ["-o", "-"]:
            assert_known_is_kept(fake.jobs[0], io.BytesIO(result.stdout_bytes))
        elif "--overwrite" not in arguments:
            assert len(written) == len(fake.jobs)
            written.sort(key=lambda path: (path.name.startswith("mask"), path.name))  # as the arguments are ordered
            for job, path in zip(fake.jobs, written, strict=True):
                if path.suffix.lower() in LOSSLESS:
                    assert_known_is_kept(job, path)


def assert_known_is_kept(job, source) -> None:
    saved, picture, known = read(source), job.picture, ~job.hole
    assert saved.samples.dtype == picture.samples.dtype
    assert torch.equal(saved.colours()[:, known], picture.colours()[:, known])  # WebP makes RGB of grey
    if picture.has_alpha and saved.has_alpha:
        assert np.array_equal(saved.samples[..., -1], picture.samples[..., -1])
    assert saved.has_alpha or not picture.has_alpha or (picture.samples[..., -1] == picture.white).all()
