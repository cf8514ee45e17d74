"""The one exception that the application raises on purpose."""


class InpaintError(Exception):
    """A problem the user can mend. ``str(error)`` is one line: what was expected, what came, what to do."""
