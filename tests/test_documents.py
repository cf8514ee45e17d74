"""What the documents tell the reader to type exists: commands parse, Python runs, files and headings are there.

They are short, too: words are counted as `wc -w` does, and no sentence is long.

Commands are fenced blocks and spans in backticks. Each is parsed by the program that it calls (click, argparse,
torchrun), which is not run. Files are checked where their first folder is one of the tree's; any other name, such as
photo.jpg or runs/image2feature, is the reader's own.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import inspect
import io
import re
import shlex
import sys
import types
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import pytest
import torch
import torch.distributed.run
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from document_code import ASSIGNMENT, FENCE, SPAN, Code, commands, line_of, pieces

import patchswap
from inpaint.commands import main as inpaint_command

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

README = ROOT / "README.md"
PAGES = [
    ROOT / "docs" / f"{name}.md"
    for name in ("guide", "method", "kernels", "training", "evaluation", "performance", "install")
]
PROSE = [README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted(ROOT.glob("docs/*.md"))]
DOCUMENTS = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "CHANGELOG.md",
    *sorted(ROOT.glob(".github/**/*.md")),
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("benchmarks/*.md")),
    *sorted(ROOT.glob("examples/*.md")),
    *sorted(ROOT.glob("research/*.md")),
]
FOLDERS = ("benchmarks", "build_backend", "csrc", "docs", "examples", "inpaint", "patchswap", "research", "tests")
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
OWN_FILE = re.compile(rf"(?<![\w./~*-])(?:{'|'.join(FOLDERS)})/[\w./*-]*(?<!\.)")
SCRIPT = re.compile(r"(benchmarks|examples|research)/[\w/]+\.py")


def problems(text: str, folder: Path = ROOT) -> list[str]:
    """What in the document cannot be typed as it stands; ``folder`` is where its links begin."""
    found = []
    for code in pieces(text):
        if code.language == "python":
            wrong = python_problems(code.text)
        elif code.language in ("", "sh", "bash", "console"):
            wrong = shell_problems(code)
        else:
            continue
        found += [f"line {code.line}: {problem}" for problem in wrong]
    for name in OWN_FILE.finditer(text):
        if not (any(ROOT.glob(name[0])) if "*" in name[0] else (ROOT / name[0]).exists()):
            found.append(f"line {line_of(text, name.start())}: no file {name[0]}")
    for link in LINK.finditer(text):
        path = folder / link[1]
        if not path.exists():
            found.append(f"line {line_of(text, link.start())}: no file {link[1]}")
        elif link[2] and link[2] not in anchors(path.read_text() if link[1] else text):
            found.append(f"line {line_of(text, link.start())}: no heading #{link[2]}")
    return found


def anchors(text: str) -> set[str]:
    """The names by which links find the headings of a page."""
    prose = FENCE.sub("", text)
    return {re.sub(r"[^\w -]", "", heading[1].lower()).replace(" ", "-") for heading in HEADING.finditer(prose)}


def shell_problems(code: Code) -> Iterator[str]:
    if not code.fenced and not is_command(code.text):
        return
    if not code.fenced and "\n" in code.text:
        yield f"a command broken over two lines in one pair of backticks: {code.text!r}"
        return
    try:
        called = list(commands(code))
    except ValueError as error:
        yield f"{error}: {code.text!r}"
        return
    for words in called:
        program = "python" if words[0].endswith(".py") else words[0]
        if program not in PROGRAMS:
            yield f"no rule for the program {program}"
        else:
            arguments = words if words[0].endswith(".py") else words[1:]
            problem = PROGRAMS[program](arguments, code.fenced)
            if problem:
                yield f"{shlex.join(words)}: {problem}"


def is_command(span: str) -> bool:
    """More than one word, the first a program that is known or a script of the tree, after variables that are set."""
    words = span.split()
    while words and ASSIGNMENT.fullmatch(words[0]):
        words = words[1:]
    return len(words) > 1 and (words[0] in PROGRAMS or bool(SCRIPT.fullmatch(words[0])))


# What each program says of its arguments: a problem, or None. Outside a block the name of a command may stand alone.


def inpaint_problem(words: list[str], fenced: bool) -> str | None:
    command: click.Command = inpaint_command
    path = ["inpaint"]
    while isinstance(command, click.Group) and words and words[0] != "..." and not words[0].startswith("-"):
        context = click.Context(command)
        found = command.get_command(context, words[0])
        if found is None:
            return f"{' '.join(path)} has no command {words[0]}"
        command, path, words = found, [*path, words[0]], words[1:]
    if not words and not fenced:
        return None
    if "..." in words and not fenced:
        known = {option for each in with_subcommands(command) for option in options(each)}
        unknown = [word for word in words if word.startswith("-") and word not in known]
        return f"no option {', '.join(unknown)}" if unknown else None
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            command.make_context(" ".join(path), list(words))
    except click.exceptions.Exit:
        return None  # --help
    except click.ClickException as error:
        return error.format_message()
    return None


def with_subcommands(command: click.Command) -> list[click.Command]:
    return [command, *(command.commands.values() if isinstance(command, click.Group) else [])]


def options(command: click.Command) -> list[str]:
    return [option for parameter in command.params for option in parameter.opts]


def python_problem(words: list[str], fenced: bool) -> str | None:
    if words[0] == "-c":
        return "; ".join(python_problems(words[1])) or None
    if words[0] == "-m":
        return module_problem(words[1], words[2:], fenced)
    path = ROOT / words[0]
    return script_problem(path, words[1:]) if path.is_file() else f"no file {words[0]}"


def module_problem(name: str, words: list[str], fenced: bool) -> str | None:
    if name in PROGRAMS:
        return PROGRAMS[name](words, fenced)
    tools = {re.split(r"[^\w-]", requirement)[0] for extra in extras().values() for requirement in extra}
    return None if name in tools | sys.stdlib_module_names else f"no rule for the module {name}"


class _Parsed(BaseException):
    """Ends a script's main() once its arguments are parsed."""


def script_problem(path: Path, arguments: list[str]) -> str | None:
    """What the script's own parser says."""
    if "ArgumentParser" not in path.read_text():
        return "takes no arguments" if arguments else None
    module = script(path)
    parse_args = ArgumentParser.parse_args

    def parse_and_end(parser: ArgumentParser, *given: Any, **options: Any) -> None:
        parse_args(parser, *given, **options)
        raise _Parsed

    said = io.StringIO()
    with contextlib.ExitStack() as changes:
        changes.enter_context(mock.patch.object(sys, "argv", [str(path), *arguments]))
        changes.enter_context(mock.patch.object(torch.cuda, "is_available", lambda: True))
        changes.enter_context(contextlib.redirect_stdout(io.StringIO()))
        changes.enter_context(contextlib.redirect_stderr(said))
        parse = getattr(module, "parse_arguments", None)
        if parse is None:
            parse = module.main
            changes.enter_context(mock.patch.object(ArgumentParser, "parse_args", parse_and_end))
        try:
            parse()
        except _Parsed:
            return None
        except SystemExit as end:
            return said.getvalue().strip().splitlines()[-1] if end.code else None
    return None


@cache
def script(path: Path) -> types.ModuleType:
    specification = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


def torchrun_problem(words: list[str], fenced: bool) -> str | None:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            found = torch.distributed.run.get_args_parser().parse_args(words)
    except SystemExit:
        return said.getvalue().strip().splitlines()[-1]
    called = ["-m"] * found.module + [found.training_script, *found.training_script_args]
    return python_problem(called, fenced)


def make_problem(words: list[str], fenced: bool) -> str | None:
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        name, is_variable, _ = word.partition("=")
        if is_variable and not re.search(rf"\$\({re.escape(name)}\)", makefile):
            return f"the Makefile has no variable {name}"
        if not is_variable and not re.search(
            rf"^(?:[\w-]+ )*{re.escape(name)}(?: [\w-]+)*:(?!=)", makefile, re.MULTILINE
        ):
            return f"the Makefile has no target {name}"
    return None


def pip_problem(words: list[str], fenced: bool) -> str | None:
    for word in words[1:]:
        name, bracket, wanted = word.partition("[")
        if words[0] == "install" and re.split(r"[=<>!~]", name)[0] in ("patchswap", "inpaint"):
            return f"{word} is on no package index: install from a checkout, '.{bracket}{wanted}'"
        if name == "." and bracket:
            unknown = set(wanted.rstrip("]").split(",")) - extras().keys()
            if unknown:
                return f"pyproject.toml has no extra {', '.join(sorted(unknown))}"
    return None


def extras() -> dict[str, list[str]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def pytest_problem(words: list[str], fenced: bool) -> str | None:
    missing = [word for word in words if not word.startswith("-") and not (ROOT / word.split("::")[0]).exists()]
    return f"no file {', '.join(missing)}" if missing else None


PROGRAMS: dict[str, Callable[[list[str], bool], str | None]] = {
    "inpaint": inpaint_problem,
    "python": python_problem,
    "torchrun": torchrun_problem,
    "make": make_problem,
    "pip": pip_problem,
    "pytest": pytest_problem,
}


# Python


def python_problems(source: str) -> list[str]:
    """What does not compile, import or exist; modules of this project have to be imported where they are used."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        return [f"does not compile: {error.msg}: {(error.text or '').strip()}"]
    found: list[str] = []
    names: dict[str, Any] = {}
    for node in ast.walk(tree):
        try:
            names |= imported(node)
        except (ImportError, AttributeError) as error:
            found.append(str(error))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in ("inpaint", "patchswap") and node.id not in names:
            found.append(f"{node.id} is used and not imported")
        if isinstance(node, ast.Attribute):
            try:
                value_of(node, names)
            except AttributeError as error:
                found.append(str(error))
        if isinstance(node, ast.Call):
            found += keyword_problems(node, names)
    return found


def imported(node: ast.AST) -> dict[str, Any]:
    """The names that an import of this project or of its rivals binds, with what they stand for."""
    if isinstance(node, ast.Import):
        modules = [alias for alias in node.names if is_own(alias.name)]
        for alias in modules:
            importlib.import_module(alias.name)
        return {alias.asname or alias.name.split(".")[0]: sys.modules[alias.name.split(".")[0]] for alias in modules}
    if isinstance(node, ast.ImportFrom) and is_own(node.module or ""):
        module = importlib.import_module(node.module or "")
        return {alias.asname or alias.name: member(module, alias.name) for alias in node.names}
    return {}


def is_own(module: str) -> bool:
    return module.split(".")[0] in ("inpaint", "patchswap", "rivals")


def member(module: types.ModuleType, name: str) -> Any:
    if not hasattr(module, name):
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(f"{module.__name__}.{name}")
    return getattr(module, name)


def value_of(node: ast.expr, names: dict[str, Any]) -> Any:
    """What a dotted name that begins with an imported one stands for; None for all other expressions."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = value_of(node.value, names)
        return None if owner is None else getattr(owner, node.attr)
    return None


def keyword_problems(call: ast.Call, names: dict[str, Any]) -> list[str]:
    with contextlib.suppress(AttributeError, ValueError, TypeError):
        function = value_of(call.func, names)
        parameters = inspect.signature(function).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            keywords = [keyword.arg for keyword in call.keywords if keyword.arg]
            return [f"{ast.unparse(call.func)} has no argument {name}" for name in keywords if name not in parameters]
    return []


# Tests

NEEDS_RESULTS = pytest.mark.skipif(
    not (ROOT / "benchmarks" / "results").exists(), reason="a source distribution without results and pictures"
)


@NEEDS_RESULTS
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_tells_the_reader_to_type_exists(path: Path) -> None:
    assert problems(path.read_text(), path.parent) == []


def test_the_documents_hold_commands_of_every_program() -> None:
    codes = [code for path in DOCUMENTS for code in pieces(path.read_text())]
    shell = [code for code in codes if code.language == "" and (code.fenced or is_command(code.text))]
    assert {words[0] for code in shell for words in commands(code)} >= PROGRAMS.keys() - {"pytest"}
    assert sum(code.language == "python" for code in codes) >= 5


WRONG = {
    "`inpaint fill photo.jpg mask.png -o filled.png --invert`": "No such option",
    "`inpaint fill --help` and `inpaint repair`": "has no command repair",
    "`inpaint train ... --initial FILE`": "no option --initial",
    "```\ninpaint stylize photo.jpg painting.jpg\n```": "Missing option",
    "```\ninpaint fill photo.jpg mask.png -o filled.png --device tpu\n```": "is not one of",
    "```\ninpaint evaluate PHOTOGRAPHS MASKS --out report \\\n    --kind center\n```": "No such option",
    "`python benchmarks/bench_nothing.py`": "no file benchmarks/bench_nothing.py",
    "`benchmarks/tables.py --verify`": "unrecognized arguments: --verify",
    "`python benchmarks/development/bench_convolve.py --output x.json`": "unrecognized arguments",
    "```\npython benchmarks/development/sanitize.py --quick\n```": "takes no arguments",
    "```\npython research/ablation.py PHOTOGRAPHS MASKS --out rows --variants default,rim-offset\n```": "rim-offset",
    "```\npython benchmarks/bench_match.py --methods nothing\n```": "--methods: expected names",
    "```\npython -c 'import patchswap; patchswap.build_data()'\n```": "has no attribute 'build_data'",
    "```\ntorchrun --gpus 4 -m inpaint train feature2image --data x --out y\n```": "unrecognized arguments",
    "```\ntorchrun --nproc-per-node 4 -m inpaint train feature --data x --out y\n```": "has no command feature",
    "`make benchmarks`": "no target benchmarks",
    "`make test ENVIRONMENT=/there`": "no variable ENVIRONMENT",
    "```\npip install '.[training]'\n```": "no extra training",
    '`pip install "patchswap[train]"`': "on no package index",
    "`pip download --no-deps\nnst-vgg19==0.1.5`": "broken over two lines",
    "`pytest tests/test_nothing.py`": "no file tests/test_nothing.py",
    "```\ninpaint info '\n```": "No closing quotation",
    "```\ncargo build\n```": "no rule for the program cargo",
    "`inpaint/networks/vgg20.py` and `csrc/*.f90`": "no file inpaint/networks/vgg20.py",
    "How it is done: docs/manual.md.": "no file docs/manual.md",
    "See [there](docs/nowhere.md#part).": "no file docs/nowhere.md",
    "# Part\n\nSee [here](#parts).": "no heading #parts",
    "See [there](docs/guide.md#the-masks).": "no heading #the-masks",
    "```python\nimport inpaint\ninpaint.fill(image, mask)\n```": "has no attribute 'fill'",
    "```python\nfill = inpaint.load()\n```": "inpaint is used and not imported",
    "```python\nfrom inpaint.weight import load\n```": "No module named 'inpaint.weight'",
    "```python\nfrom rivals.neural_inpainting import NeuralFilling\n```": "has no attribute 'NeuralFilling'",
    "```python\nimport patchswap\npatchswap.swap(features, mask=hole)\n```": "patchswap.swap has no argument mask",
    "```python\nfilled = inpainter(image mask)\n```": "does not compile",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_found(text: str) -> None:
    assert any(WRONG[text] in problem for problem in problems(text)), problems(text)


def all_commands() -> Iterator[list[str]]:
    """Every complete command of the documents that calls a parser of options."""
    for path in DOCUMENTS:
        for code in pieces(path.read_text()):
            if code.fenced and code.language == "":
                yield from (words for words in commands(code) if words[0] in ("inpaint", "python", "torchrun"))


@NEEDS_RESULTS
def test_no_command_of_the_documents_takes_any_option() -> None:
    checked = [words for words in all_commands() if words[1] != "-c"]
    assert len(checked) > 15
    for words in checked:
        assert not problems(f"```\n{shlex.join(words)}\n```"), words
        assert problems(f"```\n{shlex.join(words)} --no-such-option\n```"), words


def test_readme_python_runs() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (64, 72, 3), generator=generator, dtype=torch.uint8).numpy()
    white = np.zeros((64, 72), dtype=np.uint8)
    white[20:40, 30:50] = 255
    features, content, style = (
        torch.randn(1, 16, *size, generator=generator) for size in ((20, 24), (9, 11), (12, 10))
    )
    hole = torch.zeros(1, 20, 24, dtype=torch.bool)
    hole[:, 6:13, 8:17] = True
    given = {"image": Image.fromarray(pixels), "mask": Image.fromarray(white), "features": features, "hole": hole}
    given |= {"content": content, "style": style, "query": content, "key": style}
    blocks = [code.text for code in pieces((ROOT / "README.md").read_text()) if code.language == "python"]
    results: dict[str, Any] = {}
    for block in blocks:
        names = dict(given)
        exec(compile(block, "README.md", "exec"), names)
        results = names | results  # blocks use some names for different things: the first counts

    filled = np.asarray(results["filled"])
    assert filled.shape == pixels.shape and np.array_equal(filled[white == 0], pixels[white == 0])
    assert not np.array_equal(filled, pixels)
    assert results["swapped"].shape == content.shape
    assert torch.equal(results["index"], patchswap.match(content, style).index)
    swapped = patchswap.swap(features, hole=hole)
    torch.testing.assert_close(results["result"], swapped, rtol=1e-5, atol=1e-5)
    assert not torch.equal(swapped[:, :, hole[0]], features[:, :, hole[0]])


# Length and language

MOST_WORDS_IN_README = 500
MOST_WORDS_IN_PAGES = 9_000  # all seven together
MOST_WORDS_IN_A_SENTENCE = 35
IDIOMS = (
    "the default before",
    "as ever",
    "on end",
    "for want of",
    "nothing sure",
    "was not looked",
    "were not looked",
    "by the processor",
    "less the default's",
    "what it was worth",
    "is worth",
    "no longer",
    "not any more",
    "everybody",
    "whoever",
    "given up",
    "way round",
    "for sure",
    "whole numbers",
    "so says",
    "a script that was not kept",
)


def sentences(text: str) -> Iterator[str]:
    """Sentences of the prose: without code blocks, tables, headings and comments; a piece in backticks is one word."""
    text = re.sub(r"<!--.*?-->", "", FENCE.sub("\n\n", text), flags=re.DOTALL)
    lines = ("" if re.match(r" {4}|[|#!]|```", line) else line for line in text.splitlines())
    paragraphs = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", "\n".join(lines))
    for paragraph in paragraphs:
        words = re.sub(r"\]\([^)]*\)", "]", SPAN.sub("code", paragraph))
        yield from (sentence for sentence in re.split(r"(?<=[.!?:])\s+", words.strip()) if sentence)


def too_long(text: str) -> list[str]:
    words = ((sentence, re.findall(r"\S*\w\S*", sentence)) for sentence in sentences(text))
    return [" ".join(sentence.split()) for sentence, found in words if len(found) > MOST_WORDS_IN_A_SENTENCE]


def idioms(text: str) -> list[str]:
    prose = " ".join(FENCE.sub("", text).lower().split())
    return [idiom for idiom in IDIOMS if re.search(rf"\b{re.escape(idiom)}\b", prose)]


def test_readme_is_short() -> None:
    assert len(README.read_text().split()) <= MOST_WORDS_IN_README


def test_the_seven_pages_are_short() -> None:
    words = {page.name: len(page.read_text().split()) for page in PAGES}
    assert sum(words.values()) <= MOST_WORDS_IN_PAGES, words


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_sentences_are_short_and_plain(path: Path) -> None:
    text = path.read_text()
    assert too_long(text) == []
    assert idioms(text) == []


def test_what_is_long_or_an_idiom_is_found() -> None:
    long = " ".join(["word"] * (MOST_WORDS_IN_A_SENTENCE + 1))
    assert too_long(f"Short. {long}. Short.") == [f"{long}."]
    assert too_long(f"- {long}") == [f"- {long}"]
    assert too_long(f"| {long} |\n\n```\n{long}\n```\n\n    {long}\n\n# {long}\n\n`{long}`") == []
    assert idioms("It is slow, as\never, and `no longer` used.") == ["as ever", "no longer"]
