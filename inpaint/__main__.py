"""``python -m inpaint`` is the command ``inpaint``."""

from inpaint.commands import main

main(prog_name="inpaint")
