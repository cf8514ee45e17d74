"""``inpaint info``: what is installed here, for bug reports."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def info(as_json: bool) -> None:
    """Show versions, the machine, how the operator was built, and the weights that are there.

    \b
    Example:
      inpaint info --json > for_the_bug_report.json
    """
    from inpaint import installation
    from inpaint.threads import set_threads

    set_threads()
    report = installation.describe()
    if as_json:
        click.echo(json.dumps(report))
    else:
        for line in _outline(report):
            click.echo(line)


def _outline(value: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Nested dicts and lists as indented lines."""
    for key, item in value.items():
        if item in (None, [], {}):
            yield f"{indent}{key:<22} none"
        elif isinstance(item, dict):
            yield f"{indent}{key}"
            yield from _outline(item, indent + "  ")
        elif isinstance(item, list):
            yield f"{indent}{key}"
            for entry in item:
                yield from _outline(entry, indent + "  ") if isinstance(entry, dict) else [f"{indent}  {entry}"]
        else:
            yield f"{indent}{key:<22} {item}"
