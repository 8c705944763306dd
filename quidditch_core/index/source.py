"""Reading inside of a document's ``_source``: filtering it, and finding the values of a field.

Pure functions over decoded JSON. Paths are dotted; a dot in a key is the same as an object, and arrays are
looked through, as everywhere in a mapping.
"""

from __future__ import annotations

from typing import Any

from quidditch_core.dsl import SourceFilter


def wildcard_match(pattern: str, name: str) -> bool:
    """Whether ``name`` is what ``pattern`` describes; ``*`` stands for any characters, dots included."""
    return _matches(pattern.split("*"), name)


def filter_source(source: dict[str, Any], wanted: SourceFilter) -> dict[str, Any]:
    """The part of ``source`` that ``wanted`` keeps, in the order of ``source``.

    An object that is included keeps what no exclude takes away, even nothing; an array of objects loses
    those of which nothing is left. What is kept whole is shared with ``source``, not copied. Semantics:
    OpenSearch's XContentMapValues.filter.
    """
    if not wanted.enabled:
        return {}
    if wanted.everything:
        return source
    return _filter_object(source, "", _Paths(wanted.includes or ("*",)), _Paths(wanted.excludes))


def values_at(source: dict[str, Any], path: str) -> list[Any]:
    """The values of the field at ``path`` in the order of the document; nulls and objects are no values."""
    found: list[Any] = []
    _collect(source, path, found)
    return found


class _Paths:
    """A set of path patterns; each stands for the path and everything below it."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self._parts = [pattern.split("*") for p in patterns for pattern in (p, p + ".*")]

    def contains(self, path: str) -> bool:
        return any(_matches(parts, path) for parts in self._parts)

    def reaches_below(self, path: str) -> bool:
        """Whether some path under ``path`` may be in the set."""
        below = path + "."
        return any(
            parts[0].startswith(below) or (len(parts) > 1 and below.startswith(parts[0]))
            for parts in self._parts
        )


_EVERYTHING = _Paths(("*",))


def _matches(parts: list[str], text: str) -> bool:
    """Match literal parts with anything between them; greedy from the left, so linear in the text."""
    first, *middle = parts
    if not middle:
        return text == first
    last = middle.pop()
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for part in middle:
        at = text.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


def _filter_object(source: dict[str, Any], prefix: str, include: _Paths, exclude: _Paths) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in source.items():
        path = prefix + key
        if exclude.contains(path):
            continue
        included = include.contains(path)
        if included and not exclude.reaches_below(path):
            kept[key] = value
            continue
        below = _EVERYTHING if included else include
        rest: Any
        if isinstance(value, dict):
            rest = _filter_object(value, path + ".", below, exclude)
        elif isinstance(value, list):
            rest = _filter_array(value, path, included, below, exclude)
        elif included:
            kept[key] = value
            continue
        else:
            continue
        if included or rest:
            kept[key] = rest
    return kept


def _filter_array(
    values: list[Any], path: str, included: bool, include: _Paths, exclude: _Paths
) -> list[Any]:
    kept: list[Any] = []
    for value in values:
        rest: Any
        if isinstance(value, dict):
            rest = _filter_object(value, path + ".", include, exclude)
        elif isinstance(value, list):
            rest = _filter_array(value, path, included, include, exclude)
        elif included:
            kept.append(value)
            continue
        else:
            continue
        if rest:
            kept.append(rest)
    return kept


def _collect(node: Any, path: str, found: list[Any]) -> None:
    if isinstance(node, list):
        for element in node:
            _collect(element, path, found)
    elif isinstance(node, dict):
        if not path:
            return
        for key, value in node.items():
            if key == path:
                _collect(value, "", found)
            elif path.startswith(key + "."):
                _collect(value, path[len(key) + 1 :], found)
    elif not path and node is not None:
        found.append(node)
