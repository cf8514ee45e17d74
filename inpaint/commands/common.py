"""What every command shares: errors of one line, progress on stderr, and types of options."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from inpaint.errors import InpaintError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILE = click.Path(path_type=Path)
DEVICE = click.Choice(["auto", "cpu", "cuda", "mps"])


class Number(click.FloatRange):
    """A finite number in a range. NaN, which is neither less nor more than any limit, passes click's own type."""

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        number = super().convert(value, param, context)
        if not math.isfinite(number):
            self.fail(f"expected a finite number, got {value!r}", param, context)
        return number


class Scales(click.ParamType):
    """Short-side lengths in pixels, coarse to fine: "256,512"."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            scales = [int(length) for length in value.split(",")]
        except ValueError:
            self.fail(f"expected lengths in pixels such as 256,512, got {value!r}", param, context)
        if min(scales) < 1 or scales != sorted(set(scales)):
            self.fail(f"expected growing lengths in pixels such as 256,512, got {value!r}", param, context)
        return scales


class Option(click.Option):
    """An option under a heading."""

    def __init__(self, *arguments: Any, heading: str = "Options", **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.heading = heading


def option(*names: str, heading: str, **settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``click.option`` under a heading of a ``Grouped`` command."""
    return click.option(*names, cls=Option, heading=heading, **settings)


class Grouped(click.Command):
    """Lists its options under their headings."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        under: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(context):
            record = parameter.get_help_record(context)
            if record is not None and isinstance(parameter, click.Option):
                under.setdefault(getattr(parameter, "heading", "Help"), []).append(record)
        under = {**{heading: under[heading] for heading in under if heading != "Help"}, "Help": under["Help"]}
        for heading, records in under.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class OneLineErrors(click.Group):
    """Prints problems that the user can mend as one line, ``inpaint: ...``, and ends with exit code 1."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except InpaintError as error:
            problem = str(error)
        except BrokenPipeError:
            raise  # whoever reads our output has gone; click ends quietly
        except OSError as error:
            problem = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        click.echo(f"inpaint: {' '.join(problem.split())}", err=True)
        context.exit(1)


@dataclass
class Progress:
    """Prints a line on stderr as each stage ends and remembers it."""

    quiet: bool
    stages: list[dict[str, Any]] = field(default_factory=list)

    def say(self, text: str) -> None:
        if not self.quiet:
            click.echo(text, err=True)

    def ended(self, name: str, size: tuple[int, int], seconds: float) -> None:
        self.stages.append({"name": name, "size": list(size), "seconds": seconds})
        self.say(f"  {name:<10} {by(size):>11} {seconds:8.2f} s")

    @contextmanager
    def stage(self, name: str, size: tuple[int, int]) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.ended(name, size, time.perf_counter() - start)


def read_text(path: Path) -> str:
    """The text of a file. InpaintError where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InpaintError(f"{path}: expected text in UTF-8, got other bytes; save it as UTF-8") from error


def by(size: tuple[int, int]) -> str:
    """(height, width) as people write it: width x height."""
    return f"{size[1]}x{size[0]}"


def in_order(options: list[Callable[..., Any]]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """One decorator for all of these options, which --help lists in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@contextmanager
def memory_errors(
    size: tuple[int, int], remedy: str = "use smaller --scales, --device cpu, or a smaller picture"
) -> Iterator[None]:
    """torch reports exhausted memory as a RuntimeError, on a GPU as a subclass of it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
            raise
        raise InpaintError(f"not enough memory for {by(size)} pixels: {remedy}") from error


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Says which optional part of the package brings a missing module."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise InpaintError(
            f"this needs {error.name}, which is not installed; in a checkout: pip install '.[{name}]'"
        ) from error
