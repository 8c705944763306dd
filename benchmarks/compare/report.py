"""Measurements as Markdown. A ratio is a rival's time by the first engine's: above 1 the first is so many times
quicker."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.compare.timing import FASTEST, FETCH_ALONE, Row, Timing, pairs, whole
from benchmarks.compare.workload import Query

SLOWER_BY, SLOWER_US = 1.5, 5.0
"""A query is listed if it takes so many times the fastest rival's time, and so many microseconds more."""
_SHOWN = 40


def markdown(result: dict[str, Any], queries: Sequence[Query]) -> str:
    """The whole report."""
    parts = [_head(result), _indexing(result["built"])]
    if result.get("times"):
        timing = Timing(result, queries)
        parts += [_answers(result), _opening(result["opened"], timing)]
        parts += [_times("Totals, ms: the sum over the queries of each one's least time.", timing, _total),
                  _times("Medians, µs: over the queries, of each one's median time.", timing, _median)]
        if len(timing.engines) > 1:
            parts += [_ratios(timing), _slower(timing)]
    return "\n\n".join(parts) + "\n"


def _head(result: dict[str, Any]) -> str:
    facts = result["conditions"]
    lines = [f"{facts['machine']}, {facts['system']}; load average {facts['load_before']:.2f} before and "
             f"{facts['load_after']:.2f} after; {facts['text']}."]
    if facts["deletes"]:
        lines[0] += f" {facts['deletes']:.1%} of the documents are deleted."
    if facts["asked_segments"] > 1:
        lines[0] += f" Committed in {facts['asked_segments']} parts, not merged."
    lines += [f"- {name} {built['version']}: {built['settings']}; measured {built['clock']}"
              for name, built in result["built"].items()]
    lines += [f"- {name}: skipped, {why}" for name, why in result["skipped"].items()]
    return "\n".join([lines[0], "", *lines[1:]])


def _indexing(built: dict[str, Any]) -> str:
    rows = []
    for name, cost in built.items():
        cpu = cost["index"]["cpu"]
        rows.append([
            name, f"{cost['documents']:,}", f"{cost['text_bytes'] / 1e6:.1f}", f"{cost['index']['wall']:.2f}",
            f"{cpu:.2f}", _rate(cost["documents"], cpu, ",.0f"), _rate(cost["text_bytes"] / 1e6, cpu, ".2f"),
            f"{cost['merge']['cpu']:.2f}", f"{cost['bytes'] / 1e6:.1f}",
            f"{cost['bytes'] / cost['text_bytes']:.2f}", f"{cost['peak_rss'] / 1e6:,.0f}"])
    head = ["indexing", "documents", "text MB", "wall s", "CPU s", "docs/CPU s", "MB/CPU s", "merge, close CPU s",
            "index MB", "of text", "peak RSS MB"]
    return "Indexing, measured when each index was built.\n\n" + _table(head, rows)


def _rate(amount: float, seconds: float, form: str) -> str:
    return format(amount / seconds, form) if seconds > 0 else "-"


def _answers(result: dict[str, Any]) -> str:
    differences: list[str] = result["differences"]
    first, *others = result["opened"]
    if not others:
        return "Answers: nobody to compare with."
    if not differences:
        scored = [name for name in others if result["opened"][name]["scored"] and result["opened"][first]["scored"]]
        return (f"Answers, of every measured command and query: the numbers of documents equal {first}'s for "
                f"{', '.join(others)}; the scores, rank by rank, for {', '.join(scored) or 'none'}, whose formula is "
                "the same.")
    shown = differences[:20]
    more = [f"- and {len(differences) - len(shown)} more"] if len(differences) > len(shown) else []
    return "\n".join([f"Answers: {len(differences)} differ.", "", *(f"- {each}" for each in shown), *more])


def _opening(opened: dict[str, Any], timing: Timing) -> str:
    rows = [[name, str(cost["segments"]), f"{cost['open_ms']:.1f}", f"{cost['first_query_ms']:.1f}",
             f"{cost['warm_s']:.0f}", str(timing.rounds[name])] for name, cost in opened.items()]
    return _table(["engine", "segments", "open ms", "first query ms", "warmed s", "rounds"], rows)


def _total(row: Row, chosen: list[int]) -> str:
    times = whole(row, chosen)
    return f"{sum(times) / 1e3:,.2f}" if times else "-"


def _median(row: Row, chosen: list[int]) -> str:
    times = whole(row, chosen)
    return f"{median(times):,.1f}" if times else "-"


def _times(title: str, timing: Timing, cell: Any) -> str:
    """A row for each command and kind of query, a column for each engine."""
    times = timing.best if cell is _total else timing.typical
    rows = []
    for command in timing.commands:
        for kind, chosen in timing.groups(command):
            rows.append([command, kind, str(len(chosen)),
                         *(cell(times[name].get(command, [None] * len(timing.queries)), chosen)
                           for name in timing.engines)])
    return f"{title}\n\n" + _table(["command", "queries", "n", *timing.engines], rows)


def _ratios(timing: Timing) -> str:
    """How many times quicker the first is than each rival, and than the faster of FASTEST."""
    first, *others = timing.engines
    fast = [name for name in others if name in FASTEST]
    title = f"the faster of {' and '.join(fast)}"
    rows = []
    for command in timing.commands:
        ours = timing.best[first][command]
        columns = [timing.best[name].get(command, [None] * len(timing.queries)) for name in others]
        if len(fast) > 1:
            columns.insert(0, timing.faster(command, fast))
        for kind, chosen in timing.groups(command):
            cells = [_ratio(pairs(ours, theirs, chosen), len(chosen)) for theirs in columns]
            rows.append([command, kind, str(len(chosen)), *cells])
    head = ["command", "queries", "n", *([title] if len(fast) > 1 else []), *others]
    return (f"How many times quicker {first} is: ratio of the totals / median of the ratios of each query, of least "
            f"times.\n\n{_table(head, rows)}")


def _ratio(both: list[tuple[float, float]], wanted: int) -> str:
    if len(both) < wanted or sum(our for our, _ in both) == 0:
        return "-"
    totals = sum(their for _, their in both) / sum(our for our, _ in both)
    each = [their / our for our, their in both if our > 0]
    return f"{totals:.2f} / {median(each):.2f}"


def _slower(timing: Timing) -> str:
    """The queries on which some rival is clearly quicker."""
    first, *others = timing.engines
    found = []
    for command in timing.commands:
        if command == FETCH_ALONE:
            continue
        for at, our in enumerate(timing.best[first][command]):
            theirs = [(time, name) for name in others
                      if (time := timing.best[name].get(command, [None] * len(timing.queries))[at]) is not None]
            if our is None or not theirs:
                continue
            best, name = min(theirs)
            if our > SLOWER_BY * best and our > best + SLOWER_US:
                found.append((our / best, [command, str(timing.queries[at]).replace("|", "\\|"), f"{our:,.1f}", name,
                                           f"{best:,.1f}", f"{our / best:.2f}"]))
    limit = f"more than {SLOWER_BY:g} times and {SLOWER_US:g} µs slower than the fastest rival"
    if not found:
        return f"Queries {limit}: none."
    found.sort(key=lambda each: -each[0])
    more = f" The worst {_SHOWN} of them:" if len(found) > _SHOWN else ""
    asked = sum(time is not None for command in timing.commands if command != FETCH_ALONE
                for time in timing.best[first][command])
    return (f"Queries {limit}: {len(found)} of {asked} (every command counts).{more}\n\n"
            + _table(["command", "query", f"{first} µs", "rival", "its µs", "times slower"],
                     [row for _, row in found[:_SHOWN]]))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Words to the left, numbers to the right."""
    rule = ["---:" if all(row[at][:1].isdigit() or row[at] == "-" for row in rows) else "---"
            for at in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])
