"""``inpaint compare``: puts several evaluations side by side."""

from __future__ import annotations

from pathlib import Path

import click

from inpaint.commands.common import FILE
from inpaint.errors import InpaintError


@click.command()
@click.argument("reports", nargs=-1, required=True, metavar="[NAME=]REPORT...")
@click.option("--out", type=FILE, required=True, help="Folder for the comparison.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def compare(reports: tuple[str, ...], out: Path, quiet: bool) -> None:
    """Compare evaluations of the same photographs and masks: the first method with each of the others.

    REPORT is a folder that `inpaint evaluate` wrote; its method is called NAME, or as the folder. --out receives
    report.html, which needs no other file, comparison.json and table.md: means with 95 % bootstrap intervals, the mean
    difference of every quantity, how often the first method is better, and the exact sign test of that.

    \b
    Example:
      inpaint evaluate photos masks --out report
      inpaint evaluate photos masks --out report_telea --method telea
      inpaint compare ours=report telea=report_telea --out comparison
    """
    from inpaint.evaluation import comparison

    folders: dict[str, Path] = {}
    for report in reports:
        name, _, folder = report.partition("=")
        if not folder or Path(report).is_dir():
            name, folder = Path(report).resolve().name, report
        path = Path(folder)
        if not name or name in folders:
            raise InpaintError(f"expected a name of its own for each report, got {name!r} again; write NAME={path}")
        folders[name] = path
    click.echo(comparison.compare(folders, out, progress=not quiet).table, nl=False)
    click.echo(f"\n{out / 'report.html'}")
