"""The guides in docs/ do what they say, and leave nothing out.

Every ``python`` block runs, the blocks of a page one after another in one namespace; a ``text`` block right behind
one is what it prints. (README's program runs in ``test_examples.py``.)
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import quidditch_core as qc
from quidditch_core import dsl, errors, query
from quidditch_core import fields as field_types
from quidditch_core.analysis import ANALYZERS

DOCS = Path(__file__).resolve().parent.parent / "docs"
GUIDES = ("mapping.md", "running.md", "searching.md", "tiers.md", "writing.md")


class Block(NamedTuple):
    """A ``python`` block: on which line it starts, and what it prints (None: the page does not say)."""

    line: int
    program: str
    prints: str | None


def blocks(page: str) -> Iterator[Block]:
    pattern = r"^```python\n(.*?)^```$(?:\n```text\n(.*?)^```$)?"
    for found in re.finditer(pattern, page, re.MULTILINE | re.DOTALL):
        yield Block(page.count("\n", 0, found.start()) + 2, found[1], found[2])


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda path: str(path.relative_to(DOCS)))
def test_a_page_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "guide"}
    try:
        for block in blocks(path.read_text()):
            output = io.StringIO()
            code = compile("\n" * (block.line - 1) + block.program, path, "exec", dont_inherit=True)
            with contextlib.redirect_stdout(output):
                exec(code, namespace)
            assert output.getvalue() == (block.prints or ""), f"{path.name}:{block.line}"
    finally:
        for value in namespace.values():
            if isinstance(value, qc.Index):
                value.close()


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    for path in DOCS.rglob("*.md"):
        kinds = re.findall(r"^```(\w*)\n.*?^```$", path.read_text(), re.MULTILINE | re.DOTALL)
        printed = [block.prints is not None for block in blocks(path.read_text())]
        assert kinds.count("text") == sum(printed), f"{path.name}: a text block does not follow its program"
        assert kinds.count("python") == len(printed)
        assert set(kinds) <= {"python", "text", ""}


def test_the_guides_are_all_linked(root: Path) -> None:
    readme = (root / "README.md").read_text()
    assert {path.name for path in DOCS.glob("*.md")} >= set(GUIDES)
    for path in DOCS.glob("*.md"):
        assert f"(docs/{path.name})" in readme, f"README does not lead to {path.name}"


def test_links_lead_somewhere(root: Path) -> None:
    pages = [root / "README.md", root / "CHANGELOG.md", *DOCS.rglob("*.md"), *(root / "quidditch_core").rglob("*.md")]
    for path in pages:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text()):
            assert "://" in target or (path.parent / target).exists(), f"{path.name} links to {target}"


def page(name: str) -> str:
    return (DOCS / name).read_text()


def test_every_field_type_parameter_and_analyzer_is_explained() -> None:
    text = page("mapping.md")
    parameters = {*field_types.FieldType.__struct_fields__} - {"name", "type"}
    names = {*field_types.FIELD_TYPES, "object", *parameters, *ANALYZERS}
    assert {name for name in names if f"`{name}`" not in text} == set()


def test_every_query_is_shown_in_both_forms() -> None:
    text = page("searching.md")
    classes = {name for name, kind in vars(query).items()
               if isinstance(kind, type) and issubclass(kind, query.Query) and name != "Query" and name[0] != "_"}
    assert {name for name in classes if f"q.{name}(" not in text} == set()
    clauses = {next(iter(dsl.query_to_dict(dsl.parse_query(clause)))) for clause in clauses_of(text)}
    assert clauses >= {"match", "match_phrase", "term", "terms", "prefix", "range", "exists", "ids", "match_all",
                       "match_none", "bool", "constant_score"}
    assert len(clauses) == len(classes)


def clauses_of(text: str) -> list[dict[str, Any]]:
    [program] = [block.program for block in blocks(text) if "pairs = [" in block.program]
    namespace: dict[str, Any] = {"q": query}
    exec(program.partition("for query")[0], namespace)
    pairs: list[tuple[query.Query, dict[str, Any]]] = namespace["pairs"]
    for made, clause in pairs:
        assert dsl.parse_query(clause) == made
    return [clause for _, clause in pairs]


def test_every_option_of_a_request_is_explained() -> None:
    text = page("searching.md")
    named = {"size", "from", "sort", "_source", "track_total_hits"}
    named |= {"pre_tags", "post_tags", "fragment_size", "number_of_fragments", "no_match_size", "order", "encoder",
              "require_field_match"}
    assert {name for name in named if f"`{name}`" not in text} == set()


def test_the_settings_are_those_of_the_code() -> None:
    row = r"^\| `((?:index|indices|cluster|thread_pool)\.[\w.]+)` \| `(\S+)` \|"
    rows = dict(re.findall(row, page("running.md"), re.MULTILINE))
    defaults = {one.metadata["key"]: str(one.metadata["kind"].write(one.default)) for one in fields(qc.Settings)}
    assert rows == defaults


def test_every_error_is_explained() -> None:
    table = page("running.md").partition("\n## Errors\n")[2]
    listed = set(re.findall(r"`([A-Z]\w+)`", "".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE))))
    raised = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert listed == raised - {"QuidditchError"}
