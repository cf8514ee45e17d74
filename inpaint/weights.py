"""Weights on disk: one safetensors file holds a network of each role, with architecture and sizes; VGG-19 has its own.

Files that come with the package lie in pretrained/, are listed with their SHA-256 in pretrained/SHA256SUMS, and are
checked whenever they are read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from inpaint.errors import InpaintError
from inpaint.networks import VGG19, registry
from inpaint.networks.vgg import load_vgg19
from inpaint.tensor_file import read_tensors, under, write_tensors

FOLDER = Path(__file__).parent / "pretrained"
VGG_FILE = "vgg19_relu3_1.safetensors"
_FORMAT = "inpaint 1"


class Networks(NamedTuple):
    """What the pipeline runs (``inpaint.networks.registry``: the roles), and its file's model card (Markdown)."""

    image2feature: nn.Module
    feature2image: nn.Module
    vgg: VGG19
    card: str


def named() -> dict[str, Path]:
    """Names of the weights inside the package, and their files."""
    return {name.removesuffix(".safetensors"): FOLDER / name for name in checksums() if name != VGG_FILE}


def resolve(name_or_path: str) -> Path:
    """The file behind a name such as "default", or a path as it is. InpaintError if there is no such file."""
    if name_or_path in named():
        path = named()[name_or_path]
        hint = "install the package again"
    else:
        path = Path(name_or_path)
        hint = f"give one of the names {', '.join(named())} or the path of a .safetensors file"
    if not path.is_file():
        raise InpaintError(f"{name_or_path}: expected weights, found no file {path}; {hint}")
    return path


def load(name_or_path: str = "default", vgg: Path | None = None) -> Networks:
    """Reads both networks, and VGG-19 up to relu3_1: the package's own, or the file ``vgg`` they were trained with.

    Raises:
        InpaintError: missing or damaged file, wrong checksum, another format, or another VGG-19 than in training.
    """
    path = resolve(name_or_path)
    check(path)
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != _FORMAT:
        raise InpaintError(
            f"{path}: expected weights in the format {_FORMAT!r}, got {metadata.get('format')!r}; "
            "make them with `inpaint train export`"
        )
    vgg_file = vgg or FOLDER / VGG_FILE
    check(vgg_file)
    if (expected := metadata.get("vgg_sha256", "")) != (got := sha256(vgg_file)):
        raise InpaintError(
            f"{path}: expected the VGG-19 it was trained with (SHA-256 {expected[:12]}...), got {vgg_file.name} "
            f"({got[:12]}...); pass that file"
        )
    try:
        image2feature, feature2image = (_build(role, tensors, metadata) for role in registry.ROLES)
    except (InpaintError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InpaintError(f"{path}: expected the networks that its own header names; {error}") from error
    return Networks(image2feature, feature2image, load_vgg19(vgg_file, "conv3_1"), metadata.get("card", ""))


def _build(role: registry.Role, tensors: dict[str, Tensor], metadata: dict[str, str]) -> nn.Module:
    """The network of a file, in evaluation mode. A file that names no architecture has the role's default."""
    with torch.device("meta"):  # initial weights would be drawn at random, and for nothing
        network = registry.build(role, metadata.get(_architecture(role), ""), dict(json.loads(metadata[role])))
    state = {key: value.float() for key, value in under(tensors, f"{role}.").items()}
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def export(path: Path, networks: Mapping[registry.Role, nn.Module], *, vgg_sha256: str, card: str) -> None:
    """Writes one network of each role as one float16 safetensors file, under a temporary name first.

    Raises:
        InpaintError: a network whose class is not registered for its role; nothing is written then.
    """
    tensors: dict[str, Tensor] = {}
    metadata = {"format": _FORMAT, "vgg_sha256": vgg_sha256, "card": card}
    for role in registry.ROLES:
        config: Any = networks[role].config
        metadata[_architecture(role)] = registry.name_of(role, networks[role])
        metadata[role] = json.dumps(dataclasses.asdict(config))
        tensors.update({f"{role}.{key}": value.half() for key, value in networks[role].state_dict().items()})
    write_tensors(path, tensors, metadata)


def _architecture(role: registry.Role) -> str:
    """The key under which a file names it."""
    return f"{role}.architecture"


def facts(name_or_path: str = "default", vgg: Path | None = None) -> dict[str, str]:
    """What tells a copy of such networks where they come from: names and SHA-256 of both files, and the model card."""
    path, vgg_file = resolve(name_or_path), vgg or FOLDER / VGG_FILE
    return {
        "weights": path.name,
        "weights_sha256": sha256(path),
        "vgg": vgg_file.name,
        "vgg_sha256": sha256(vgg_file),
        "card": read_tensors(path)[1].get("card", ""),
    }


def check(path: Path) -> None:
    """Compares a file of the package with its listed SHA-256; any other file passes.

    Raises:
        InpaintError: the file is missing or its checksum is wrong.
    """
    if not path.is_file():
        raise InpaintError(f"{path}: expected weights, found no file; install the package again or check the path")
    expected = checksums().get(path.name) if path.parent == FOLDER else None
    if expected is not None and (got := sha256(path)) != expected:
        raise InpaintError(
            f"{path}: expected SHA-256 {expected[:12]}..., got {got[:12]}...; "
            "the file is damaged, install the package again"
        )


def checksums() -> dict[str, str]:
    """{file name: SHA-256} of the weights that come with the package."""
    listing = FOLDER / "SHA256SUMS"
    if not listing.is_file():
        raise InpaintError(f"{listing}: expected the list of weights, found no file; install the package again")
    return {
        name: digest
        for digest, name in (line.split() for line in listing.read_text(encoding="utf-8").splitlines() if line)
    }


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
