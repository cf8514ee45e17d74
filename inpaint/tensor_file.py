"""Safetensors files: read with errors a user can act on, written so that a stopped run never leaves half a file."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from inpaint.errors import InpaintError


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. InpaintError if it is missing or damaged."""
    try:
        with safe_open(str(path), framework="pt") as file:
            # The library maps the file, which could not be replaced on Windows while such tensors live: hence copies.
            return {key: file.get_tensor(key).clone() for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InpaintError(
            f"{path}: expected a safetensors file, could not read it ({error}); check the path or get the file again"
        ) from error


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes to a temporary name beside ``path`` and renames. InpaintError or OSError where that fails."""
    temporary = path.with_name(path.name + ".part")
    try:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary, metadata)
        temporary.chmod(0o644)  # the library writes files that only their owner can read
        os.replace(temporary, path)
    except SafetensorError as error:  # a full disk, for instance
        raise InpaintError(f"cannot write {path}: {error}; nothing was written") from error
    finally:
        temporary.unlink(missing_ok=True)


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
