"""The code of the documents: fenced blocks, pieces in backticks, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

FENCE = re.compile(r"^```(?P<language>[^\n`]*)\n(?P<content>.*?)^```$", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`]+)`")
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)


@dataclass(frozen=True)
class Code:
    """A piece of code of a document: in a fenced block with its language ("": a shell), or in backticks."""

    text: str
    line: int
    fenced: bool
    language: str = ""


def pieces(text: str) -> Iterator[Code]:
    """Blocks, then spans, which may run over lines but not over an empty one."""
    for match in FENCE.finditer(text):
        yield Code(match["content"], line_of(text, match.start("content")), True, match["language"])
    prose = FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    for paragraph in re.finditer(r"(?:.+\n?)+", prose):
        for span in SPAN.finditer(paragraph[0]):
            yield Code(span[1], line_of(prose, paragraph.start() + span.start()), False)


def line_of(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def commands(code: Code) -> Iterator[list[str]]:
    """The words of each command, without the variables that are set before it."""
    for line in code.text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*shlex.split(line, comments=code.fenced), "&&"]:
            if word != "&&":
                words.append(word)
                continue
            while words and ASSIGNMENT.fullmatch(words[0]):
                words = words[1:]
            if words:
                yield words
            words = []
