"""What ``inpaint batch --engine ray`` does its own way: folders behind URLs, and the workers of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import click

from inpaint.commands.common import extra
from inpaint.errors import InpaintError

if TYPE_CHECKING:
    import threading

    from inpaint.batch import local
    from inpaint.batch.local import Ended
    from inpaint.batch.manifest import Manifest
    from inpaint.batch.pairs import Pairing
    from inpaint.batch.ray_engine import Places
    from inpaint.batch.task import Options
    from inpaint.commands.painting import Painting


class PathOrUrl(click.ParamType):
    """A path becomes a ``Path``, a URL stays a string."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        return Path(value) if isinstance(value, str) and "://" not in value else value


def require_ray() -> None:
    with extra("ray"):
        import ray.data  # noqa: F401


def in_folders(places: local.Places) -> Places:
    """The places of a run on this machine, as workers take them."""
    from inpaint.batch.folder import LocalFolder
    from inpaint.batch.ray_engine import Places

    photographs, outputs = (LocalFolder(path.absolute()) for path in (places.photographs, places.outputs))
    masks = None if places.masks is None else LocalFolder(places.masks.absolute())
    return Places(photographs, outputs, masks, places.mask)


def find(folder: Path | str, masks: Path | str | None, output: Path | str) -> tuple[Places, Pairing]:
    """The places and the photographs of a run whose folders are not all on this machine.

    Raises:
        InpaintError: a folder cannot be read, or there is nothing to fill.
    """
    from inpaint.batch.folder import open_folder
    from inpaint.batch.local import read_file
    from inpaint.batch.pairs import MASKS, pair
    from inpaint.batch.ray_engine import Places
    from inpaint.batch.task import File

    given = [str(place).rstrip("/") for place in (folder, masks, output) if place is not None]
    if len(set(given)) < len(given):
        raise InpaintError(f"{given[0]}: expected folders of their own for photographs, masks and results")
    try:
        photographs, outputs = open_folder(str(folder)), open_folder(str(output))
        one_mask = of_masks = None
        if isinstance(masks, Path) and masks.is_file():
            one_mask = read_file(masks)
        elif isinstance(masks, str) and PurePosixPath(masks).suffix.lower() in MASKS:
            place, _, name = masks.rpartition("/")
            one_mask = File(masks, open_folder(place).read(name))
        elif masks is not None:
            of_masks = open_folder(str(masks))
        others = [other for other in (outputs, of_masks) if other is not None]
        found = pair(photographs.names(others), None if of_masks is None else of_masks.names([outputs]))
    except OSError as error:
        raise InpaintError(f"{folder}: expected folders that can be read ({error}); check names and rights") from error
    if not found.pairs and not found.refused:
        reason = ", and none of its photographs has a mask" if found.photographs_without_mask else ""
        raise InpaintError(f"{folder}: expected photographs to fill, found none{reason}; check the names")
    inputs = {f"{folder}/{each.photograph}" for each in found.pairs}
    for each in found.pairs:
        if f"{output}/{each.output}" in inputs:
            raise InpaintError(f"{output}/{each.output} is an input itself; choose another folder for the results")
    return Places(photographs, outputs, of_masks, one_mask), found


@contextmanager
def opened(address: str | None, processors: int | None, places: Places) -> Iterator[Manifest]:
    """The cluster, and the manifest of the results."""
    from inpaint.batch.ray_engine import cluster
    from inpaint.batch.remote_manifest import manifest_of

    with cluster(address, processors), manifest_of(places.outputs) as manifest:
        yield manifest


def run(
    pairing: Pairing,
    places: Places,
    options: Options,
    painting: Painting,
    jobs: int | None,
    manifest: Manifest,
    stop: threading.Event,
    ended: Ended,
) -> None:
    from inpaint.batch import ray_engine

    workers = ray_engine.plan(painting.device, jobs, painting.threads, len(pairing.pairs))
    ray_engine.run(pairing.pairs, places, options, workers, manifest, stop=stop, ended=ended)
