"""``python -m inpaint`` is the command ``inpaint``."""

from inpaint.cli import main

main(prog_name="inpaint")
