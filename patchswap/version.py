"""The version of both packages, which pyproject.toml, CITATION.cff and CHANGELOG.md repeat."""

__version__ = "0.2.0"
