"""The medians as a drawing: a panel for each command, a line for each kind of query, a dot for each engine.

The axis is logarithmic and the same in all panels. SVG by hand, so that nothing need be installed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from statistics import median
from typing import Any

from benchmarks.compare.timing import FETCH_ALONE, Timing, whole
from benchmarks.compare.workload import Query

# Okabe and Ito's colours, which the colour-blind can tell apart; the first is ours.
_COLOURS = ["#d55e00", "#0072b2", "#009e73", "#56b4e9", "#cc79a7", "#e69f00", "#7f7f7f", "#332288", "#882255"]
_SHAPES = ["circle", "square", "diamond", "triangle"]
_LEFT, _RIGHT, _TOP, _LINE, _HEAD, _GAP, _WIDTH = 190, 30, 96, 24, 26, 14, 860


def svg(result: dict[str, Any], queries: Sequence[Query]) -> str:
    """The drawing."""
    timing = Timing(result, queries)
    panels = []
    for command in timing.commands:
        if command == FETCH_ALONE:
            continue
        lines = []
        for kind, chosen in timing.groups(command):
            if kind == "all" and not command.startswith("FETCH"):
                continue
            dots = [(name, median(times)) for name in timing.engines
                    if (times := whole(timing.best[name].get(command, [None] * len(queries)), chosen))]
            lines.append((kind, dots))
        panels.append((command, lines))
    values = [value for _, lines in panels for _, dots in lines for _, value in dots]
    low = math.floor(math.log10(max(min(values), 0.1)) * 2) / 2
    high = math.ceil(math.log10(max(values)) * 2) / 2
    return _drawn(panels, timing.engines, low, max(high, low + 1), result)


def _drawn(panels: list[Any], names: list[str], low: float, high: float, result: dict[str, Any]) -> str:
    def across(value: float) -> float:
        return _LEFT + (math.log10(max(value, 10**low)) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    parts: list[str] = []
    y = _TOP
    for command, lines in panels:
        bottom = y + _HEAD + len(lines) * _LINE
        parts.append(f'<rect x="{_LEFT}" y="{y + _HEAD - 6}" width="{_WIDTH - _LEFT - _RIGHT}" '
                     f'height="{bottom - y - _HEAD + 6}" fill="#f6f6f4"/>')
        for tick in _ticks(low, high):
            heavy = math.log10(tick).is_integer()
            parts.append(f'<line x1="{across(tick):.1f}" x2="{across(tick):.1f}" y1="{y + _HEAD - 6}" y2="{bottom}" '
                         f'stroke="{"#c4c4c0" if heavy else "#e4e4e0"}" stroke-width="1"/>')
        parts.append(f'<text x="{_LEFT}" y="{y + 13}" class="command">{escape(command)}</text>')
        for at, (kind, dots) in enumerate(lines):
            middle = y + _HEAD + at * _LINE + _LINE / 2 - 3
            parts.append(f'<text x="{_LEFT - 12}" y="{middle + 4}" class="kind">'
                         f'{escape("10 documents" if kind == "all" else kind)}</text>')
            if len(dots) > 1:
                ends = [across(value) for _, value in dots]
                parts.append(f'<line x1="{min(ends):.1f}" x2="{max(ends):.1f}" y1="{middle}" y2="{middle}" '
                             'stroke="#b8b8b4" stroke-width="1.5"/>')
            for name, value in reversed(dots):  # ours last, on top
                title = f"{name}, {command} {kind}: {value:,.1f} µs"
                parts.append(_dot(names.index(name), across(value), middle, title))
        y = bottom + _GAP
    for tick in _ticks(low, high):
        if math.log10(tick).is_integer():
            parts.append(f'<text x="{across(tick):.1f}" y="{y + 4}" class="tick">{_time(tick)}</text>')
    first = next(iter(result["built"].values()))
    caption = f"{first['documents']:,} documents, {result['conditions']['machine']}"
    parts += _legend(names)
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y + 40}" width="{_WIDTH}" height="{y + 40}" '
        'role="img" aria-label="Median time of a query by command, kind and engine">',
        "<style>text{font-family:system-ui,'Segoe UI','Helvetica Neue',Arial,sans-serif;fill:#222}"
        ".title{font-size:17px;font-weight:600}.command{font-size:13px;font-weight:600}.kind{font-size:12px;"
        "text-anchor:end}.tick,.note{font-size:11px;fill:#666}.tick{text-anchor:middle}.name{font-size:12px}</style>",
        f'<rect width="{_WIDTH}" height="{y + 40}" fill="#fff"/>',
        '<text x="24" y="34" class="title">Time of a query: median over the queries, less is better</text>',
        *parts, f'<text x="24" y="{y + 28}" class="note">{escape(caption)}</text>', "</svg>", ""])


def _legend(names: list[str]) -> list[str]:
    parts, x = [], 30.0
    for at, name in enumerate(names):
        parts += [_dot(at, x, 62, name), f'<text x="{x + 11:.1f}" y="66" class="name">{escape(name)}</text>']
        x += 36 + 7.1 * len(name)
    return parts


def _dot(at: int, x: float, y: float, title: str) -> str:
    colour, size = _COLOURS[at % len(_COLOURS)], 6.5 if at == 0 else 5.0
    shape = _SHAPES[0] if at == 0 else _SHAPES[(at - 1) % 3 + 1]
    look = f'fill="{colour}" stroke="#fff" stroke-width="1"'
    if shape == "circle":
        mark = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" {look}>'
    elif shape == "square":
        half = size - 0.5
        mark = f'<rect x="{x - half:.1f}" y="{y - half:.1f}" width="{2 * half}" height="{2 * half}" {look}>'
    else:
        corners = [(0, -1), (1, 0), (0, 1), (-1, 0)] if shape == "diamond" else [(0, -1), (1, 0.8), (-1, 0.8)]
        points = " ".join(f"{x + dx * (size + 1):.1f},{y + dy * (size + 1):.1f}" for dx, dy in corners)
        mark = f'<polygon points="{points}" {look}>'
    return f"{mark}<title>{escape(title)}</title></{mark[1:mark.index(' ')]}>"


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each power of ten."""
    found = [step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in (1, 2, 5)]
    return [tick for tick in found if 10**low * 0.999 <= tick <= 10**high * 1.001]


def _time(microseconds: float) -> str:
    if microseconds >= 1e6:
        return f"{microseconds / 1e6:g} s"
    return f"{microseconds / 1e3:g} ms" if microseconds >= 1e3 else f"{microseconds:g} µs"
