"""``inpaint info``: what is installed here, for bug reports."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from inpaint.errors import InpaintError

if TYPE_CHECKING:
    from collections.abc import Iterator


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def info(as_json: bool) -> None:
    """Show versions, how the operator was built, devices, and the weights that are there.

    \b
    Example:
      inpaint info --json > for_the_bug_report.json
    """
    import platform
    from importlib import metadata

    import torch

    import patchswap
    from inpaint.threads import set_threads

    set_threads()
    report = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "numpy": metadata.version("numpy"),
        "pillow": metadata.version("pillow"),
        "patchswap": patchswap.build_info(),
        "devices": [f"cpu ({torch.get_num_threads()} threads)"]
        + [f"cuda:{number} ({torch.cuda.get_device_name(number)})" for number in range(torch.cuda.device_count())],
        "weights": _weights_present(),
    }
    if as_json:
        click.echo(json.dumps(report, default=str))
    else:
        for line in _outline(report):
            click.echo(line)


def _weights_present() -> list[dict[str, Any]]:
    from inpaint import weights
    from inpaint.tensor_file import read_tensors

    present = []
    for name, path in {**weights.named(), "VGG-19": weights.FOLDER / weights.VGG_FILE}.items():
        entry: dict[str, Any] = {"name": name, "file": str(path)}
        try:
            weights.check(path)
            entry |= {"bytes": path.stat().st_size, "sha256": weights.sha256(path)}
            card = read_tensors(path)[1].get("card", "")
            entry["card"] = [line for line in card.splitlines() if line.strip()]
        except InpaintError as error:
            entry["problem"] = str(error)
        present.append(entry)
    return present


def _outline(value: Any, indent: str = "") -> Iterator[str]:
    """Nested dicts and lists as indented lines."""
    for key, item in value.items():
        if isinstance(item, dict):
            yield f"{indent}{key}"
            yield from _outline(item, indent + "  ")
        elif isinstance(item, list):
            yield f"{indent}{key}"
            for entry in item:
                yield from _outline(entry, indent + "  ") if isinstance(entry, dict) else [f"{indent}  {entry}"]
        else:
            yield f"{indent}{key:<18} {item}"
