"""Damaged picture files through the loaders and writers: each gives a picture or an InpaintError of one line.

    python research/fuzz_loaders.py --seconds 120

Small files of every format are made, then damaged: bytes changed, cut out, repeated or put in, ends cut off. Each is
read as a photograph and as a mask, changed and saved. Processes of their own do the work, so that a crash of a decoder
is seen. The last line counts inputs, pictures, refusals, and failures; the exit code is 1 where there are failures.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import random
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import tifffile
from PIL import ExifTags, Image

from inpaint import jpeg, png
from inpaint.errors import InpaintError
from inpaint.holes import read_hole
from inpaint.photo import FORMAT_OF_EXTENSION, check_output, read, save

INPUTS_OF_A_PROCESS = 20_000
SIDE = (24, 18)  # pixels


def seeds() -> Iterator[bytes]:
    """Small files of every format, with metadata."""
    generator = np.random.default_rng(0)
    colours = generator.integers(0, 256, (*SIDE, 4), dtype=np.uint8)
    deep = generator.integers(0, 65536, (*SIDE, 4), dtype=np.uint16)
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "A camera"
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] = 400
    options: dict[str, Any] = {"exif": exif, "icc_profile": bytes(200), "dpi": (300, 300)}

    def written(write: Callable[..., Any], *arguments: Any, **options: Any) -> bytes:
        stream = io.BytesIO()
        write(stream, *arguments, **options)
        return stream.getvalue()

    for channels in (0, 3):
        image = Image.fromarray(colours[..., :3] if channels else colours[..., 0])
        for file_format in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "JPEG2000", "BMP", "GIF"):
            yield written(image.save, file_format, **(options if file_format not in ("BMP", "GIF", "JPEG2000") else {}))
        yield written(image.save, "JPEG", progressive=True, comment=b"a comment", xmp=b"<x:xmpmeta/>", quality=50)
    with_photoshop = jpeg.parts_of(written(Image.fromarray(colours[..., :3]).save, "JPEG"))
    added = jpeg.photoshop_segment({1028: b"\x1c\x02\x78\0\7caption", 1036: bytes(40)})
    yield with_photoshop._replace(segments=[*with_photoshop.segments[:1], added, *with_photoshop.segments[1:]]).joined()
    for channels in (1, 2, 3, 4):
        header, *rest = png.encode_deep(deep[..., :channels])
        yield png.joined([header, png.Chunk(b"gAMA", bytes(4)), png.Chunk(b"tEXt", b"Title\0text"), *rest])
    for array in (deep, deep[..., :3], colours[..., :2], deep[..., 0] / np.float32(65535)):
        for kind in ({}, {"compression": "zlib", "predictor": True}, {"bigtiff": True}, {"tile": (16, 16)}):
            yield written(
                tifffile.imwrite, array, photometric="rgb" if array.ndim > 2 and array.shape[2] > 2 else None, **kind
            )
    yield written(tifffile.imwrite, np.moveaxis(deep[..., :3], 2, 0), photometric="rgb", planarconfig="separate")


def damaged(content: bytes, chance: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        place, length = chance.randrange(len(data)), chance.choice((1, 2, 4, 30))
        kind = chance.randrange(6)
        if kind == 0:
            data[place : place + length] = chance.randbytes(length)
        elif kind == 1:
            data[place] ^= 1 << chance.randrange(8)
        elif kind == 2:
            data[place : place + length] = chance.choice((b"\0", b"\xff", b"\x7f")) * length
        elif kind == 3:
            del data[place : place + length]
        elif kind == 4:
            data[place:place] = data[place : place + length]
        elif chance.random() < 0.2:
            del data[place:]
        if not data:
            break
    return bytes(data)


def outcome(content: bytes, chance: random.Random) -> str:
    """ "picture", or "refused"; or a line on what failed."""
    step, result = "read", "refused"
    try:
        photo = read(content, max_megapixels=0.1)
        samples = photo.samples.copy()
        samples[: chance.randint(1, samples.shape[0]), : chance.randint(1, samples.shape[1])] = 0
        step, file_format = "check", chance.choice((*sorted(FORMATS), getattr(photo.origin, "file_format", "PNG")))
        check_output(io.BytesIO(), photo, file_format=file_format)
        step, result = "save", "picture"
        save(io.BytesIO(), replace(photo, samples=samples), file_format=file_format)
    except InpaintError as error:
        if "\n" in str(error):
            return f"{step}: several lines: {error!r}"
    except Exception as error:
        return f"{step}: {type(error).__name__}: {error}"
    try:
        read_hole(content, size=None, max_megapixels=0.1)
    except InpaintError as error:
        if "\n" in str(error):
            return f"mask: several lines: {error!r}"
    except Exception as error:
        return f"mask: {type(error).__name__}: {error}"
    return result


FORMATS = set(FORMAT_OF_EXTENSION.values()) - {"HEIF", "AVIF"}  # AVIF is slow to write


def work(seed: int, count: int, stop: float, results: Any) -> None:
    warnings.simplefilter("ignore")
    contents, chance, counts = list(seeds()), random.Random(seed), Counter[str]()
    for number in range(count):
        if time.monotonic() > stop:
            break
        content = damaged(chance.choice(contents), chance)
        results["now"] = content  # what a crash was about
        said = outcome(content, chance)
        counts["inputs"] += 1
        counts[said] += 1
        if said not in ("picture", "refused"):
            results[f"{said[:60]} ({seed}, {number})"] = content
    results["counts"] = dict(counts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    context, stop, total = multiprocessing.get_context("spawn"), time.monotonic() + arguments.seconds, Counter[str]()
    seed = arguments.seed
    with context.Manager() as manager:
        while time.monotonic() < stop:
            results = manager.dict()
            process = context.Process(target=work, args=(seed, INPUTS_OF_A_PROCESS, stop, results))
            process.start()
            process.join(arguments.seconds + 60)
            if process.exitcode != 0:
                process.kill()
                total["crashes or hangs"] += 1
                print(f"seed {seed}: exit code {process.exitcode} with {results.get('now', b'').hex()}", flush=True)
            total.update(results.get("counts", {}))
            seed += 1
    print(dict(total.most_common()))
    return int(set(total) > {"inputs", "picture", "refused"} or "crashes or hangs" in total)


if __name__ == "__main__":
    raise SystemExit(main())
