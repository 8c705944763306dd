"""Search the documentation of the Python you are running.

    python examples/01_python_docs.py                             # index once, then ask four questions
    python examples/01_python_docs.py walk a directory tree       # ask your own
    python examples/01_python_docs.py --kind class '"thread pool"'    # quoted: as a phrase; only classes

Every module, class and function of the standard library and of the installed packages becomes a document. The
sources are parsed, never imported. The index stays in ``.demo/`` of the checkout and is rebuilt when a source
file changes.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import statistics
import sys
import sysconfig
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import quidditch_core as qc
from quidditch_core import query as q

MAPPING = {
    "dynamic": "strict",
    "properties": {
        "name": {"type": "keyword"},
        "qualname": {"type": "keyword"},
        "words": {"type": "text", "analyzer": "english"},
        "module": {"type": "keyword"},
        "package": {"type": "keyword"},
        "kind": {"type": "keyword"},
        "signature": {"type": "text", "analyzer": "simple"},
        "docstring": {"type": "text", "analyzer": "english"},
        "file": {"type": "keyword"},
        "line": {"type": "integer"},
    },
}

QUESTIONS = (
    ("parse a date string", None),
    ("read csv file", None),
    ('"current working directory"', None),
    ("http server", "class"),
)

REPEATS = 20
MARKS = ("\ue000", "\ue001")  # around a hit in a snippet; private characters, so no docstring contains them


# --- from source files to documents ----------------------------------------------------------------------

SKIPPED = {"site-packages", "test", "tests", "idle_test", "_vendor", "__pycache__"}


def sources(root: Path) -> Iterator[Path]:
    """The Python files of the packages below ``root``, sorted, without tests and vendored copies."""
    for folder, inside, files in os.walk(root):
        inside[:] = sorted(name for name in inside if name.isidentifier() and name not in SKIPPED)
        paths = (Path(folder, name) for name in sorted(files) if name.endswith(".py"))
        yield from (path for path in paths if path.is_file())


def split_words(name: str) -> str:
    """``parse_date`` -> ``parse date``, ``HTTPServer2`` -> ``HTTP Server 2``: the words inside names."""
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\dA-Z_]+|\d+", name))


def signature(node: ast.AST) -> str:
    """``(data, *, strict=False) -> date``; a class has that of its ``__init__``."""
    if isinstance(node, ast.ClassDef):
        inits = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        return "(" + re.sub(r"^self(, )?", "", ast.unparse(inits[-1].args)) + ")" if inits else ""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return f"({ast.unparse(node.args)}){returns}"
    return ""


def definitions(scope: ast.AST, prefix: str) -> Iterator[tuple[str, str, ast.AST]]:
    """(qualified name, kind, node) of classes and functions, also below ``if`` and ``try``; none local."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}.{node.name}", "function", node
        elif isinstance(node, ast.ClassDef):
            yield f"{prefix}.{node.name}", "class", node
            yield from definitions(node, f"{prefix}.{node.name}")
        elif isinstance(node, ast.stmt | ast.ExceptHandler):
            yield from definitions(node, prefix)


def extract(root: Path, file: Path) -> list[dict[str, Any]] | None:
    """The documents of one file, or None if it is not Python that this interpreter can parse."""
    relative = file.relative_to(root)
    parts = relative.with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    found: dict[str, dict[str, Any]] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(file.read_bytes())
        for qualname, kind, node in ((module, "module", tree), *definitions(tree, module)):
            name = qualname.rpartition(".")[2]
            docstring = ast.get_docstring(node)  # type: ignore[arg-type]
            if docstring is None and name.startswith("_"):
                continue
            found[qualname] = {  # of overloads and platform variants the last one stays
                "name": name, "qualname": qualname, "words": split_words(qualname), "module": module,
                "package": parts[0], "kind": kind, "signature": signature(node), "docstring": docstring,
                "file": str(relative), "line": getattr(node, "lineno", 1),
            }
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested too deeply
        return None
    return list(found.values())


# --- the index -------------------------------------------------------------------------------------------


def fingerprint(files: Sequence[tuple[Path, Path]], limit: int) -> str:
    """Changes when a source file, the limit or this script does."""
    digest = hashlib.sha256(f"{sys.version} {limit}".encode() + Path(__file__).read_bytes())
    for _, file in files:
        state = file.stat()
        digest.update(f"{file} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def progress(files: Sequence[tuple[Path, Path]]) -> Iterator[tuple[Path, Path]]:
    """The files, with a bar on a terminal."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        print(f"reading {len(files):,} source files", file=sys.stderr)
        yield from files
    else:
        yield from tqdm(files, "reading sources", unit=" files", leave=False, disable=None)


def build(path: Path, files: Sequence[tuple[Path, Path]], limit: int) -> str:
    """Make the index at ``path`` anew; returns a line about it."""
    started = time.perf_counter()
    documents: dict[str, dict[str, Any]] = {}  # a name that stands twice is indexed once
    skipped = 0
    for root, file in progress(files):
        found = extract(root, file)
        skipped += found is None
        for document in found or []:
            if len(documents) < limit:
                documents.setdefault(document["qualname"], document)
        if len(documents) >= limit:
            break
    read = time.perf_counter() - started

    shutil.rmtree(path, ignore_errors=True)
    started = time.perf_counter()
    with qc.create(path, MAPPING) as index:
        report = index.bulk(documents.values(), id="qualname", progress=True)
        index.flush()
    took = time.perf_counter() - started
    for failure in report.failed[:3]:
        print(f"not indexed: {failure.id}: {failure.error}", file=sys.stderr)
    return (f"{report.indexed:,} objects indexed in {took:.1f} s ({report.indexed / took:,.0f} a second), "
            f"after {read:.1f} s of reading sources"
            + (f"; {skipped} files that do not parse were skipped" if skipped else ""))


def open_index(path: Path, limit: int, rebuild: bool) -> tuple[qc.Index, str]:
    """The index, built if it is missing or stale, and a line that says how it came about."""
    roots = dict.fromkeys(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))
    files = [(root, file) for root in roots if root.is_dir() for file in sources(root)]
    mark, record = fingerprint(files, limit), path.with_name(path.name + ".json")
    known = {} if rebuild or not record.exists() else json.loads(record.read_text())
    if known.get("fingerprint") == mark:
        try:
            return qc.open(path, read_only=True), f"index reused (--rebuild makes it anew); {known['story']}"
        except (qc.errors.IndexNotFoundError, qc.errors.CorruptIndexError, qc.errors.FormatError) as error:
            print(f"index made anew: {error}", file=sys.stderr)
    record.unlink(missing_ok=True)
    story = build(path, files, limit)
    record.write_text(json.dumps({"fingerprint": mark, "story": story}))
    return qc.open(path, read_only=True), story


# --- questions and answers -------------------------------------------------------------------------------


def to_query(text: str, kind: str | None) -> q.Query:
    """Words match names and docstrings, names count double; text in double quotes is a phrase."""
    if len(text) > 2 and text[0] == text[-1] == '"':
        wanted = q.MatchPhrase("words", text[1:-1], boost=2.0) | q.MatchPhrase("docstring", text[1:-1])
    else:
        wanted = q.Match("words", text, boost=2.0) | q.Match("docstring", text)
    return q.Bool(must=(wanted,), filter=(q.Term("kind", kind),)) if kind else wanted


def ask(index: qc.Index, text: str, kind: str | None, size: int) -> None:
    """Search once, then some more for the timing, and print a table."""
    query = to_query(text, kind)
    highlight = {
        "fields": {"docstring": {"fragment_size": 90, "number_of_fragments": 1}},
        "pre_tags": [MARKS[0]], "post_tags": [MARKS[1]],
    }
    times = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        result = index.search(query, size=size, highlight=highlight)
        times.append((time.perf_counter() - started) * 1000)
    more = "" if result.total.relation == "eq" else "over "
    print(f"\n{bold(text)}{f', kind {kind}' if kind else ''}: {more}{result.total.value:,} found in "
          f"{statistics.median(times[1:]):.2f} ms (first time {times[0]:.1f} ms)")
    width = max(70, min(120, shutil.get_terminal_size((110, 24)).columns))
    for rank, hit in enumerate(result.hits, 1):
        found = hit.source
        place = f"{found['file']}:{found['line']}"
        title = shorten(found["qualname"] + found["signature"], width - 18 - len(place))
        print(f"{rank:3} {hit.score:6.2f}  {title:{width - 18 - len(place)}}  {place}")
        fragments = (hit.highlight or {}).get("docstring") or [(found["docstring"] or "")[:90]]
        print(f"{'':11} {snippet(fragments[0])}")


def shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() else f"**{text}**"


def snippet(fragment: str) -> str:
    """One printable line, its hits in bold."""
    line = "".join(c if c.isprintable() or c in MARKS else " " for c in fragment)
    return re.sub(f"{MARKS[0]}(.*?){MARKS[1]}", lambda hit: bold(hit[1]), " ".join(line.split()))


def main() -> None:
    checkout = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description="Search the documentation of the Python you are running.")
    parser.add_argument("question", nargs="*", help="your own words; inside double quotes: a phrase")
    parser.add_argument("--kind", choices=("module", "class", "function"), help="find only these")
    parser.add_argument("--size", type=int, default=5, help="hits to show")
    parser.add_argument("--limit", type=int, default=100_000, help="index at most so many objects")
    parser.add_argument("--rebuild", action="store_true", help="index again, even if nothing changed")
    parser.add_argument("--index", type=Path, default=checkout / ".demo" / "python-docs", metavar="PATH")
    args = parser.parse_args()
    args.index.parent.mkdir(parents=True, exist_ok=True)

    index, story = open_index(args.index, args.limit, args.rebuild)
    with index:
        print(story)
        segments = index.segments()
        print(f"{index.count():,} documents in {len(segments)} segment{'s' * (len(segments) != 1)}, "
              f"{sum(s.bytes for s in segments) / 1e6:.1f} MB on disk at {args.index}")
        asked = " ".join(args.question).strip()
        for text, kind in [(asked, args.kind)] if asked else QUESTIONS:
            ask(index, text, kind, args.size)
    print("\nAsk your own:  make demo Q=\"walk a directory tree\""
          f"\n          or:  {sys.executable} {sys.argv[0]} --kind function walk a directory tree")


if __name__ == "__main__":
    main()
