"""Quidditch: an embedded search engine.

::

    import quidditch_core as qc
    from quidditch_core import query as q

    with qc.create("books", {"properties": {"body": {"type": "text"}}}) as index:
        index.put("b1", {"body": "Call me Ishmael."})
        index.refresh()
        print(index.search(q.Match("body", "ishmael")))

Importing this package is quick: the engine is imported when the first index is opened, compiled code when the
first kernel runs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import aggs, errors, query
    from .config import Settings, Tiers
    from .index.facade import Index, create, open, restore
    from .index.reader import Reader
    from .index.snapshot import Repository
    from .mapping import Mapping
    from .result import BulkReport, Explanation, Hit, SearchResult
    from .scoring import scorer

__version__ = "0.1.0.dev0"

_HOMES = {
    "BulkReport": "result", "Explanation": "result", "Hit": "result", "Index": "index.facade", "Mapping": "mapping",
    "Reader": "index.reader", "SearchResult": "result", "Settings": "config", "Tiers": "config",
    "create": "index.facade", "open": "index.facade", "Repository": "index.snapshot", "restore": "index.facade",
    "scorer": "scoring",
}

__all__ = [
    "BulkReport", "Explanation", "Hit", "Index", "Mapping", "Reader", "Repository", "SearchResult", "Settings", "Tiers",
    "aggs", "create", "errors", "open", "query", "restore", "scorer",
]


def __getattr__(name: str) -> Any:
    if name in ("aggs", "errors", "query"):
        return importlib.import_module(f".{name}", __name__)
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
