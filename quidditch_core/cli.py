"""The command ``quidditch``: look into an index from a shell. A user of the public face; needs ``[cli]``."""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import quidditch_core as qc
from quidditch_core import jit, query
from quidditch_core.errors import QueryError, QuidditchError
from quidditch_core.index.check import check as check_index
from quidditch_core.index.repair import repair as repair_index
from quidditch_core.result import RepairReport

try:
    import typer
except ModuleNotFoundError:
    raise SystemExit("quidditch: the command line needs typer: pip install 'quidditch-core[cli]'") from None

app = typer.Typer(
    help="Search and inspect Quidditch indexes.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False,
)


@contextmanager
def _errors() -> Iterator[None]:
    """An error of ours ends the command with its message; any other is a defect and keeps its traceback."""
    try:
        yield
    except QuidditchError as error:
        typer.echo(f"quidditch: {error}", err=True)
        raise typer.Exit(1) from None


def _words(index: qc.Index, text: str) -> query.Query:
    """``text`` in any text field, which is what words without a field usually mean."""
    matches = [query.Match(name, text) for name, field in index.mapping.fields.items() if field.is_text]
    return query.Bool(should=tuple(matches)) if matches else query.MatchNone()


@app.command()
def search(
    path: Path,
    text: Annotated[str, typer.Argument(metavar="QUERY", help="Words for all text fields, or a JSON body.")],
    size: Annotated[int, typer.Option(help="Hits to show.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print the response as OpenSearch would.")] = False,
) -> None:
    """Search an index."""
    with _errors(), qc.open(path, read_only=True) as index:
        wanted: Any = _words(index, text)
        if text.lstrip().startswith("{"):
            try:
                wanted = json.loads(text)
            except json.JSONDecodeError as error:
                raise QueryError(f"not JSON: {error}", fix="write a request body or plain words") from None
        result = index.search(wanted, size=size)
        typer.echo(json.dumps(result.to_dict(), ensure_ascii=False, indent=2) if as_json else str(result))


@app.command()
def stats(path: Path) -> None:
    """Print what an index holds, as JSON."""
    with _errors(), qc.open(path, read_only=True) as index:
        typer.echo(json.dumps(index.stats(), ensure_ascii=False, indent=2))


@app.command()
def check(path: Path) -> None:
    """Verify every byte and every fact of an index; ends with 1 if anything is wrong."""
    with _errors():
        report = check_index(path, progress=_percent())
    typer.echo(str(report))
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def repair(
    path: Path,
    to: Annotated[Path | None, typer.Option(help="Where the new index goes (default: PATH.repaired).")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before writing.")] = False,
) -> None:
    """Salvage what is whole of a damaged index into a new one, and say exactly which documents are lost."""
    def confirmed(report: RepairReport) -> bool:
        typer.echo(f"what a repair gives:\n{report}")
        return yes or typer.confirm("write the new index?")

    target = path.with_name(path.name + ".repaired") if to is None else to
    with _errors():
        report = repair_index(path, target, confirm=confirmed, progress=_percent())
    if not target.exists():
        raise typer.Exit(1)
    typer.echo(f"written:\n{report}")


def _percent() -> Callable[[int, int], None] | None:
    """Shows on a terminal how much of the bytes has been read."""
    if not sys.stderr.isatty():
        return None

    def show(read: int, total: int) -> None:
        print(f"\r{read / max(total, 1):4.0%}", end="\n" if read == total else "", file=sys.stderr, flush=True)

    return show


@app.command()
def warmup() -> None:
    """Compile every kernel for this CPU now, so that no first search or first document waits for it."""
    started = time.perf_counter()
    kernels = _kernels()
    with typer.progressbar(kernels, label="kernels") as bar:
        for kernel in bar:
            kernel.prepare()
    typer.echo(f"{len(kernels)} kernels ready in {time.perf_counter() - started:.1f} s")


def _kernels() -> list[jit.Kernel]:
    """Every kernel of the package."""
    found: dict[str, jit.Kernel] = {}
    for module in pkgutil.walk_packages(qc.__path__, "quidditch_core."):
        if module.name != __name__:
            values = vars(importlib.import_module(module.name)).values()
            found |= {value.name: value for value in values if isinstance(value, jit.Kernel)}
    return list(found.values())


def main() -> None:
    """The entry point."""
    app()
