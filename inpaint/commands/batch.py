"""``inpaint batch``: fills the photographs of a folder."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import click

from inpaint.commands import batch_on_ray
from inpaint.commands.bar import Bar
from inpaint.commands.batch_on_ray import PathOrUrl
from inpaint.commands.common import Grouped, option
from inpaint.commands.filling import FILLING, feather_option, max_memory_option, page_option, scales_option
from inpaint.commands.interruption import orderly_end
from inpaint.commands.marks import Marks, mark_options
from inpaint.commands.painting import OUTPUT, WORK, Painting, painting_options
from inpaint.errors import InpaintError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from inpaint.batch.local import Ended, Places
    from inpaint.batch.manifest import Entry, Manifest
    from inpaint.batch.pairs import Pair, Pairing
    from inpaint.batch.task import Fills, Options

_MOST_NAMES = 20  # that are printed where files have no counterpart
_MOST_JOBS = 16  # by default: more threads of torch for each are better then


@click.command(cls=Grouped)
@click.argument("folder", type=PathOrUrl(), metavar="IN")
@click.argument("masks", type=PathOrUrl(), required=False, metavar="[MASKS]")
@mark_options(with_mask=False)
@page_option(FILLING)
@feather_option()
@scales_option("each photograph")
@option("-o", "--output", type=PathOrUrl(), required=True, metavar="OUT", heading=OUTPUT, help="Folder of the results.")
@painting_options(None)
@option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    heading=WORK,
    help="Photographs worked on at once; they share the threads. [one for each thread, at most 16; on a GPU 16]",
)
@max_memory_option()
@option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    heading=WORK,
    help="This process, or the workers of a Ray cluster; then IN, MASKS and OUT can be URLs such as s3://bucket/in.",
)
@option(
    "--address",
    envvar="RAY_ADDRESS",
    show_envvar=True,
    metavar="HOST:PORT",
    heading=WORK,
    help="The Ray cluster. [Ray is started on this machine]",
)
def batch(
    folder: Path | str,
    masks: Path | str | None,
    page: int,
    feather: int,
    scales: list[int] | None,
    output: Path | str,
    jobs: int | None,
    max_memory: float | None,
    engine: str,
    address: str | None,
    **options: Any,
) -> None:
    """Fill the photographs in the folder IN and in its sub-folders.

    MASKS is a folder in which each photograph's mask has its name and place: for IN/sea/12.jpg, sea/12.png or
    sea/12.json. Or it is one mask for all. Without MASKS, --box, --mask-colour, --mask-from-alpha or --mask-from-nan
    marks the holes. The result of IN/sea/12.jpg is OUT/sea/12_filled.jpg, and what inpaint fill would make of it.

    OUT/manifest.jsonl has a line for each photograph: its result and notes, or why there is none. The same command
    given again goes on where it was ended, by Ctrl-C, by a full disk or by a crash. It fills what is new, what failed,
    and what was filled from another photograph or mask or with other options.

    A photograph that cannot be filled is named and does not keep the others from being filled; the exit code is 1 then.
    Photographs without a mask and masks without a photograph are named.

    \b
    Examples:
      inpaint batch photos masks -o filled
      inpaint batch scans dust.png -o cleaned --jobs 4
      inpaint batch photos --box 900,400,200,120 -o filled
    """
    marks, painting = Marks.of(options), Painting(**options)
    _check_marks(masks, marks)
    asked = partial(_options, marks, painting, scales=scales, feather=feather, page=page, max_memory=max_memory)
    if engine == "ray":
        begin = partial(_begin_on_ray, folder, masks, output, address=address)
    else:
        begin = partial(_begin_here, *_paths(folder, masks, output), max_memory=max_memory)
    run = begin(asked=asked, marks=marks, painting=painting, jobs=jobs)
    tally = _Tally(run.pairing)
    with run.opened as manifest, Bar(len(run.pairing.pairs), quiet=painting.quiet) as bar:
        tally.start(bar)
        with orderly_end("" if painting.quiet else "\nfinishing what is begun; again to end at once\n") as interruption:
            try:
                run.fill(manifest, interruption.stop, lambda pair, entry: tally.ended(pair, entry, bar))
            finally:
                bar.close()
                painting.progress.say(tally.summary(output))
                if painting.as_json:
                    click.echo(json.dumps(tally.report()))
    code = interruption.exit_code or int(bool(tally.failed))
    if code:
        click.get_current_context().exit(code)


class _Run(NamedTuple):
    """What is to be filled, the manifest and all that it takes while it is open, and what fills."""

    pairing: Pairing
    opened: AbstractContextManager[Manifest]
    fill: Callable[[Manifest, threading.Event, Ended], None]


def _begin_here(
    folder: Path,
    masks: Path | None,
    output: Path,
    *,
    asked: Callable[[], Options],
    marks: Marks,
    painting: Painting,
    jobs: int | None,
    max_memory: float | None,
) -> _Run:
    _check_use(folder, masks, output)

    from inpaint.batch import local
    from inpaint.batch.manifest import NAME, Manifest

    options = asked()
    places, pairing = _places_and_pairing(folder, masks, output, marks)
    fills, jobs, threads = _inpainter(painting, jobs, len(pairing.pairs), max_memory)

    def fill(manifest: Manifest, stop: threading.Event, ended: Ended) -> None:
        local.remove_unfinished(pairing.pairs, output)
        local.run(pairing.pairs, places, options, fills, manifest, jobs=jobs, threads=threads, stop=stop, ended=ended)

    return _Run(pairing, Manifest(output / NAME), fill)


def _begin_on_ray(
    folder: Path | str,
    masks: Path | str | None,
    output: Path | str,
    *,
    asked: Callable[[], Options],
    marks: Marks,
    painting: Painting,
    jobs: int | None,
    address: str | None,
) -> _Run:
    batch_on_ray.require_ray()

    from inpaint.batch.local import remove_unfinished

    options = asked()
    paths = [place for place in (folder, masks, output) if isinstance(place, Path)]
    if len(paths) == 2 + (masks is not None):
        _check_use(*_paths(folder, masks, output))
        here, pairing = _places_and_pairing(*_paths(folder, masks, output), marks)
        places = batch_on_ray.in_folders(here)
    else:
        places, pairing = batch_on_ray.find(folder, masks, output)

    def fill(manifest: Manifest, stop: threading.Event, ended: Ended) -> None:
        if isinstance(output, Path):
            remove_unfinished(pairing.pairs, output)
        batch_on_ray.run(pairing, places, options, painting, jobs, manifest, stop, ended)

    return _Run(pairing, batch_on_ray.opened(address, painting.threads, places), fill)


def _paths(folder: Path | str, masks: Path | str | None, output: Path | str) -> tuple[Path, Path | None, Path]:
    for place in (folder, masks, output):
        if isinstance(place, str):
            raise click.UsageError(f"{place} is a URL: give --engine ray, or a path.")
    return cast("tuple[Path, Path | None, Path]", (folder, masks, output))


@dataclass
class _Tally:
    """What became of the photographs."""

    pairing: Pairing
    filled: int = 0
    done_before: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    noted: int = 0
    begin: float = field(default_factory=time.perf_counter)

    def start(self, bar: Bar) -> None:
        """Names all that cannot be filled."""
        for name, why in self.pairing.refused.items():
            self._fail(name, why, bar)
        _name("no mask", self.pairing.photographs_without_mask, bar)
        _name("no photograph", self.pairing.masks_without_photograph, bar)

    def ended(self, pair: Pair, entry: Entry | None, bar: Bar) -> None:
        if entry is None:
            self.done_before += 1
        elif entry.error is not None:
            self._fail(pair.photograph, entry.error, bar)
        else:
            self.filled += 1
            self.noted += bool(entry.notes)
        bar.advance()

    def _fail(self, photograph: str, why: str, bar: Bar) -> None:
        self.failed[photograph] = why
        bar.warn(f"{photograph}: failed: {why}")

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.begin

    @property
    def left(self) -> int:
        """Photographs that were not reached."""
        pairing = self.pairing
        return len(pairing.pairs) + len(pairing.refused) - self.filled - self.done_before - len(self.failed)

    def summary(self, output: Path | str) -> str:
        lonely = len(self.pairing.masks_without_photograph)
        counts = {
            "done before": self.done_before,
            "failed": len(self.failed),
            "without a mask": len(self.pairing.photographs_without_mask),
            "mask without a photograph" if lonely == 1 else "masks without a photograph": lonely,
            "left": self.left,
        }
        told = [f"{self.filled} filled", *(f"{count} {what}" for what, count in counts.items() if count)]
        rate = f" ({self.filled / self.seconds:.2f} photographs a second)" if self.filled else ""
        lines = [f"{output}: {', '.join(told)}, in {self.seconds:.1f} s{rate}"]
        if self.noted:
            lines.append(f"notes on {self.noted} of them are in {output}/manifest.jsonl")
        if self.left:
            lines.append("give the same command again to go on")
        return "\n".join(lines)

    def report(self) -> dict[str, Any]:
        return {
            "filled": self.filled,
            "done_before": self.done_before,
            "failed": self.failed,
            "without_mask": self.pairing.photographs_without_mask,
            "without_photograph": self.pairing.masks_without_photograph,
            "left": self.left,
            "seconds": self.seconds,
        }


def _name(what: str, names: list[str], bar: Bar) -> None:
    for name in names[:_MOST_NAMES]:
        bar.say(f"{what}: {name}")
    if len(names) > _MOST_NAMES:
        bar.say(f"{what}: {len(names) - _MOST_NAMES} more; --json lists all")


def _check_marks(masks: Path | str | None, marks: Marks) -> None:
    if masks is None:
        if not marks.marks_without_mask:
            raise click.UsageError(
                "Missing argument 'MASKS': give a folder of masks, a mask for all photographs, or --box or another "
                "option that marks the holes."
            )
        marks.refuse_options_of_masks("MASKS")


def _check_use(folder: Path, masks: Path | None, output: Path) -> None:
    if not folder.is_dir():
        remedy = "; for a single photograph use inpaint fill" if folder.is_file() else ""
        raise InpaintError(f"{folder}: expected a folder of photographs, found none{remedy}")
    if masks is not None and not masks.exists():
        raise InpaintError(f"{masks}: expected a folder of masks, or one mask, found neither; check the name")
    if masks is not None and masks.samefile(folder):
        raise InpaintError(f"{folder} is given for photographs and masks; put the masks into a folder of their own")
    for path, called in ((folder, "photographs"), (masks, "masks")):
        if path is not None and path.is_dir() and output.exists() and output.samefile(path):
            raise InpaintError(f"{output} is the folder of {called} itself; choose another one for the results")


def _options(marks: Marks, painting: Painting, *, max_memory: float | None, **filling: Any) -> Options:
    from inpaint.batch.local import read_file
    from inpaint.batch.task import Options
    from inpaint.mask_sources import rgb

    for colour in marks.colours:
        rgb(colour)
    scales = filling.pop("scales")
    return Options(
        marks.marking,
        source=None if marks.source is None else read_file(marks.source),
        exclude=None if marks.exclude is None else read_file(marks.exclude),
        scales=None if scales is None else tuple(scales),
        max_megapixels=painting.max_megapixels,
        weights=painting.weights,
        precision=painting.precision,
        max_memory=None if max_memory is None else 2**30 * max_memory,
        **filling,
    )


def _places_and_pairing(folder: Path, masks: Path | None, output: Path, marks: Marks) -> tuple[Places, Pairing]:
    places = _places(folder, masks, output)
    others = [path for path in (masks, marks.source, marks.exclude) if path is not None]
    pairing = _pairing(folder, masks, output, others)
    _refuse_overwriting(pairing.pairs, places, others)
    return places, pairing


def _places(folder: Path, masks: Path | None, output: Path) -> Places:
    from inpaint.batch.local import Places, read_file
    from inpaint.photo import check_folder

    output.mkdir(parents=True, exist_ok=True)
    check_folder(output)
    if masks is not None and masks.is_file():
        return Places(folder, output, mask=read_file(masks))
    return Places(folder, output, masks)


def _pairing(folder: Path, masks: Path | None, output: Path, others: list[Path]) -> Pairing:
    """``others``: files and folders of masks, which are no photographs."""
    from inpaint.batch.pairs import files_in, pair

    photographs = files_in(folder, [output, *others])
    found = pair(photographs, files_in(masks, [output]) if masks is not None and masks.is_dir() else None)
    if not found.pairs and not found.refused:
        reason = ", and none of its photographs has a mask" if found.photographs_without_mask else ""
        raise InpaintError(f"{folder}: expected photographs to fill, found none{reason}; check the names")
    return found


def _refuse_overwriting(pairs: Iterable[Pair], places: Places, others: list[Path]) -> None:
    """InpaintError where a result would replace one of the inputs, by whatever name. ``others``: further inputs."""

    def of(path: Path) -> tuple[int, int] | None:
        try:
            state = path.stat()
        except OSError:
            return None
        return state.st_dev, state.st_ino

    inputs = {of(path) for path in others}
    for pair in pairs:
        inputs.add(of(places.photographs / pair.photograph))
        if places.masks is not None and pair.mask is not None:
            inputs.add(of(places.masks / pair.mask))
    for pair in pairs:
        output = places.outputs / pair.output
        if (found := of(output)) is not None and found in inputs:
            raise InpaintError(f"{output} is an input itself; choose another folder for the results")


def _inpainter(
    painting: Painting, jobs: int | None, photographs: int, max_memory: float | None
) -> tuple[Fills, int, int]:
    """What fills, how many photographs it works on at once, and the threads of torch for each."""
    import torch

    from inpaint import memory
    from inpaint.batch.side_by_side import SideBySide
    from inpaint.batch.together import Together
    from inpaint.device import choose_device
    from inpaint.threads import set_threads

    set_threads(painting.threads)
    device = choose_device(painting.device)
    threads = torch.get_num_threads()
    most = jobs or (_MOST_JOBS if device.type == "cuda" else min(threads, _MOST_JOBS))
    most = max(1, min(most, photographs))
    if device.type == "cuda":
        return Together(painting.networks(max_memory and 2**30 * max_memory), most), most, threads
    limit = 2**30 * max_memory if max_memory else memory.SHARE * memory.free_memory(device)
    return SideBySide(painting.networks(limit), limit, most), most, max(1, threads // most)
