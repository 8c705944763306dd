"""Measurements as Markdown tables. A ratio is the first engine's time by the other's: below 1 the first is quicker."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.compare.workload import KINDS, Query

Times = dict[str, list[list[int]]]  # command -> query -> nanoseconds of each round


def markdown(result: dict[str, Any], queries: Sequence[Query]) -> str:
    """The whole report."""
    names = list(result["built"])
    parts = [_head(result), _indexing(result["built"])]
    if "times" in result:
        parts += [_answers(result), _opening(result["opened"])]
        parts += [_searching(names[0], other, result["times"], queries) for other in names[1:]]
        if len(names) == 1:
            parts.append(_alone(names[0], result["times"][names[0]], queries))
    return "\n\n".join(parts) + "\n"


def _head(result: dict[str, Any]) -> str:
    facts = result["conditions"]
    lines = [f"{facts['machine']}, {facts['system']}; load average {facts['load_before']:.2f} before and "
             f"{facts['load_after']:.2f} after; {facts['text']}."]
    lines += [f"- {name} {built['version']}: {built['settings']}" for name, built in result["built"].items()]
    return "\n".join([lines[0], "", *lines[1:]])


def _indexing(built: dict[str, Any]) -> str:
    rows = []
    for name, cost in built.items():
        cpu = cost["index"]["cpu"]
        rows.append([
            name, f"{cost['documents']:,}", f"{cost['text_bytes'] / 1e6:.1f}", f"{cost['index']['wall']:.2f}",
            f"{cpu:.2f}", f"{cost['documents'] / cpu:,.0f}", f"{cost['text_bytes'] / cpu / 1e6:.2f}",
            f"{cost['merge']['cpu']:.2f}", f"{cost['bytes'] / 1e6:.1f}",
            f"{cost['bytes'] / cost['text_bytes']:.2f}", f"{cost['peak_rss'] / 1e6:,.0f}"])
    head = ["indexing", "documents", "text MB", "wall s", "CPU s", "docs/CPU s", "MB/CPU s", "merge CPU s", "index MB",
            "of text", "peak RSS MB"]
    return _table(head, rows)


def _answers(result: dict[str, Any]) -> str:
    differences: list[str] = result["differences"]
    if len(result["built"]) == 1:
        return "Answers: nobody to compare with."
    if not differences:
        return "Answers: counts equal, and scores of the best 1,000 where the formula is the same."
    shown = differences[:20]
    more = [f"- and {len(differences) - len(shown)} more"] if len(differences) > len(shown) else []
    return "\n".join([f"Answers: {len(differences)} differ.", "", *(f"- {each}" for each in shown), *more])


def _opening(opened: dict[str, Any]) -> str:
    return _table(["ms", "open", "first query"],
                  [[name, f"{cost['open_ms']:.1f}", f"{cost['first_query_ms']:.1f}"] for name, cost in opened.items()])


def _searching(ours: str, theirs: str, times: dict[str, Times], queries: Sequence[Query]) -> str:
    """Totals and medians of two engines, by command and kind of query."""
    rows = []
    for command in times[ours]:
        for kind, chosen in _kinds(queries):
            best, typical = ([[reduce(times[name][command][i]) / 1e3 for i in chosen] for name in (ours, theirs)]
                             for reduce in (min, median))
            ratios = [our / their for our, their in zip(*best, strict=True)]
            rows.append([
                command, kind, str(len(chosen)), *(f"{sum(each):,.0f}" for each in best),
                f"{sum(best[0]) / sum(best[1]):.2f}", *(f"{median(each):,.1f}" for each in typical),
                f"{median(ratios):.2f}", f"{max(ratios):.1f}",
                str(sum(ratio < 1 for ratio in ratios))])
    head = ["command", "queries", "n", f"{ours} total", f"{theirs} total", "ratio of totals", f"{ours} median",
            f"{theirs} median", "median ratio", "worst ratio", f"{ours} quicker"]
    note = ("µs. Totals are over each query's least time, medians over each query's median time, ratios are of "
            "least times.")
    return f"{ours} and {theirs}, {note}\n\n{_table(head, rows)}"


def _alone(name: str, times: Times, queries: Sequence[Query]) -> str:
    rows = []
    for command, of_queries in times.items():
        for kind, chosen in _kinds(queries):
            best, typical = ([reduce(of_queries[i]) / 1e3 for i in chosen] for reduce in (min, median))
            rows.append([command, kind, str(len(chosen)), f"{sum(best):,.0f}", f"{median(typical):,.1f}"])
    return f"{name}, µs.\n\n" + _table(["command", "queries", "n", "total of least", "median of medians"], rows)


def _kinds(queries: Sequence[Query]) -> list[tuple[str, list[int]]]:
    """The numbers of the queries of each kind, then of all."""
    chosen = [(kind, [i for i, query in enumerate(queries) if query.kind == kind]) for kind in KINDS]
    return [(kind, some) for kind, some in chosen if some] + [("all", list(range(len(queries))))]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Words to the left, numbers to the right."""
    rule = ["---:" if all(row[at][:1].isdigit() for row in rows) else "---" for at in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])
