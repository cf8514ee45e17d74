"""Every recipe of docs/recipes.md runs, is short, and gives what the plain code below it gives."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^## (.*)$", re.MULTILINE)
MOST_STATEMENTS = 3  # of a recipe, without imports and functions

TEXT = PAGE.read_text() if PAGE.exists() else ""
COMMON, *BLOCKS = BLOCK.findall(TEXT) or [""]
RECIPES = list(zip(BLOCKS[::2], BLOCKS[1::2], strict=True))

pytestmark = pytest.mark.skipif(not TEXT, reason="a source distribution without documents")


def heading_of(number: int) -> str:
    return HEADING.findall(TEXT[: TEXT.index(RECIPES[number][0])])[-1]


def given() -> dict[str, Any]:
    """What the page takes as given."""
    query, key = torch.randn(2, 8, 12, 14), torch.randn(2, 8, 10, 9)
    hole = torch.zeros(2, 12, 14, dtype=torch.bool)
    hole[0, 3:8, 4:9] = hole[1, 6:, :5] = True
    return {
        "content": query,
        "style": torch.randn(2, 8, 10, 9),
        "query": query,
        "key": key,
        "values": torch.randn(2, 5, 10, 9),
        "finer": torch.randn(2, 4, 20, 18),
        "finest": torch.randn(2, 3, 40, 36),
        "features": query,
        "encoded": torch.randn(2, 8, 12, 14),
        "hole": hole,
        "key_mask": torch.rand(2, 6, 7) < 0.6,
        "tokens": torch.randn(2, 30, 16),
        "other_tokens": torch.randn(2, 40, 16),
        "guess": torch.rand(1, 3, 15, 16),
        "picture": torch.rand(1, 3, 13, 17),
    }


def functions_of_the_page() -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in (COMMON, *BLOCKS):
        tree = ast.parse(block)
        tree.body = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.Import))]
        exec(compile(tree, "recipes.md", "exec"), names)
    return names


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """Of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("number", range(len(RECIPES)), ids=heading_of)
def test_recipe_equals_its_plain_code(number: int) -> None:
    names = functions_of_the_page() | given()
    for block in RECIPES[number]:
        exec(compile(block, "recipes.md", "exec"), names)
    result, expected = (
        [each] if isinstance(each, torch.Tensor) else list(each) for each in (names["result"], names["expected"])
    )
    if "weight" in names:
        result, expected = [*result, names["weight"]], [*expected, names["expected_weight"]]
    for found, wanted in zip(result, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        assert found.dim() == 0 or bool((found != found.flatten()[0]).any())


@pytest.mark.parametrize("number", range(len(RECIPES)), ids=heading_of)
def test_recipe_is_short(number: int) -> None:
    statements = [
        node for node in ast.parse(RECIPES[number][0]).body if not isinstance(node, (ast.FunctionDef, ast.Import))
    ]
    assert len(statements) <= MOST_STATEMENTS


def test_every_heading_has_a_recipe() -> None:
    assert {heading_of(number) for number in range(len(RECIPES))} == set(HEADING.findall(TEXT))
