"""The documentation names only what exists: files and tests."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")]
)

_CODE_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_OWN_FILE = re.compile(r"(?<![\w/.-])(?:tests|docs|sluicegate|streams|consumers)/[\w./-]*\w/?")
_TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")
_TEST_NAME = re.compile(r"`(test_\w+)`")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(text: str) -> str:
    """Return the text without its code blocks."""
    return _CODE_BLOCK.sub("", text)


@cache
def functions(file: Path) -> frozenset[str]:
    """Return the names of the functions that a module defines."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds))


def anchors(file: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = _HEADING.findall(prose(file.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path, text: str) -> Iterator[str]:
    """Name the relative links that lead nowhere."""
    for link in _LINK.findall(prose(text)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


def missing_names(text: str) -> Iterator[str]:
    """Name the files and tests that the text names and that are not there."""
    for path in _OWN_FILE.findall(text):
        if not (ROOT / path).exists():
            yield path
    for path, name in _TEST.findall(text):
        if (ROOT / path).exists() and name not in functions(ROOT / path):
            yield f"{path}::{name}"


@each_page
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """A reader who follows a link of ours finds a file, and the heading that was meant."""
    assert list(broken_links(page, page.read_text(encoding="utf-8"))) == []


@each_page
def test_every_file_and_test_that_is_named_exists(page: Path) -> None:
    """A guarantee's test can be run under the name that stands beside it."""
    text = page.read_text(encoding="utf-8")
    assert list(missing_names(text)) == []
    everywhere = set[str]().union(*map(functions, (ROOT / "tests").rglob("test_*.py")))
    assert set(_TEST_NAME.findall(text)) - everywhere == set()


@each_page
def test_every_code_block_is_closed(page: Path) -> None:
    """An open fence would swallow the rest of the page, diagrams included."""
    fences = [
        line for line in page.read_text(encoding="utf-8").splitlines() if line.lstrip().startswith("```")
    ]
    assert [fence.strip() for fence in fences[1::2]] == ["```"] * (len(fences) // 2)
    assert len(fences) % 2 == 0


def test_the_check_notices_what_is_wrong(tmp_path: Path) -> None:
    """A check of documents that finds nothing in a wrong one would be no check."""
    page = tmp_path / "page.md"
    page.write_text("# A title\n", encoding="utf-8")
    wrong_links = "[a](nowhere.md) [b](page.md#no-such) [c](page.md#a-title) [d](https://example.org/x)"
    wrong_names = "tests/unit/test_docs.py::test_nobody, tests/unit/test_nowhere.py, streams/support_chat.py"

    assert list(broken_links(page, wrong_links)) == ["nowhere.md", "page.md#no-such"]
    assert list(missing_names(wrong_names)) == [
        "tests/unit/test_nowhere.py",
        "tests/unit/test_docs.py::test_nobody",
    ]
