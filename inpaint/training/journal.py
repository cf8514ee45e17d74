"""What a run tells about itself: log.jsonl, pictures, a progress bar, and TensorBoard where it is installed."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from inpaint.photo import to_pil, write_file

_NAMES_SHOWN = 5  # of the unreadable files


class Journal:
    """Writes to ``out``; ``TensorBoard`` shows ``out/tensorboard``. A context manager.

    Args:
        out: the run's folder, which exists.
        title: stands before the progress bar.
        first, last: steps done and steps to do in all.
        batch: crops a step.
        quiet: nothing on the screen.
    """

    def __init__(self, out: Path, title: str, first: int, last: int, batch: int, *, quiet: bool) -> None:
        self._out, self._batch, self._quiet = out, batch, quiet
        (out / "pictures").mkdir(exist_ok=True)
        self._log = open(out / "log.jsonl", "a", encoding="utf-8")  # noqa: SIM115  # closed by __exit__
        self._bar = tqdm(total=last, initial=first, desc=title, unit="step", disable=quiet, mininterval=2)
        self._board = _open_board(out / "tensorboard", first)
        if self._board is None:
            self.say("no TensorBoard logs: they need the package tensorboard; in a checkout: pip install '.[train]'")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        self._log.close()
        if self._board is not None:
            self._board.close()

    def step(self, losses: dict[str, float]) -> None:
        """Moves the bar, which also tells steps/s and the time left."""
        rate = self._bar.format_dict["rate"]
        shown = {name: f"{value:.3f}" for name, value in losses.items()}
        self._bar.set_postfix({"images/s": f"{(rate or 0) * self._batch:.1f}", **shown}, refresh=False)
        self._bar.update()

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """One line of the log, one point of each curve."""
        self._log.write(json.dumps({"step": step, **{key: round(value, 5) for key, value in values.items()}}) + "\n")
        self._log.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def pictures(self, step: int, rows: list[Tensor]) -> None:
        """Rows of pictures, (B, 3, S, S) in [0, 1] each, as one sheet."""
        sheet = torch.cat([torch.cat(list(row.float().cpu()), dim=2) for row in rows], dim=1).clamp(0, 1)
        path = self._out / "pictures" / f"{step:07d}.jpg"
        content = io.BytesIO()
        to_pil(sheet).save(content, "JPEG", quality=90)
        write_file(path, content.getvalue())
        if self._board is not None:
            self._board.add_image("held out", sheet.numpy(), step)

    def unreadable(self, names: set[str]) -> None:
        """The files that were left out, if any."""
        if names:
            shown = ", ".join(sorted(names)[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
            self.say(f"files that could not be decoded and were left out: {len(names)} ({shown})")

    def say(self, text: str) -> None:
        if not self._quiet:
            self._bar.write(text, file=sys.stderr)


def _open_board(folder: Path, first: int) -> Any:
    """TensorBoard's writer, or None where it is not installed. A resumed run's curves go on from step ``first``."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=first + 1 if first else None)
