"""What calls return: hits, documents, reports and explanations.

Pure data. ``to_dict`` gives what OpenSearch would answer; ``repr`` is a table for the terminal,
``_repr_html_`` one for notebooks in which every character of a document is escaped. A document's JSON is
decoded when someone looks at ``source``, so a search whose sources nobody reads does not pay for them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Protocol, overload

import msgspec

from quidditch_core.errors import QuidditchError

_SHOWN_ROWS = 10
_SHOWN_ROWS_HTML = 50
_SHOWN_CHARACTERS = 80
_SHOWN_CHARACTERS_LONG = 300


_decoded = msgspec.json.Decoder(dict[str, Any]).decode  # which costs a fifth of decode(type=...)


class Total(msgspec.Struct, frozen=True):
    """How many documents match: exactly ``value`` ("eq"), or at least ("gte")."""

    value: int
    relation: str = "eq"

    def to_dict(self) -> dict[str, Any]:
        return {"value": self.value, "relation": self.relation}

    def __str__(self) -> str:
        return f"{'at least ' if self.relation == 'gte' else ''}{self.value:,}"


class _Sourced:
    """Something with a JSON source, kept as it came and decoded when first looked at."""

    __slots__ = ("_source",)

    def __init__(self, source: bytes | dict[str, Any] | None) -> None:
        self._source = source

    @property
    def source(self) -> dict[str, Any] | None:
        """The document; None where the request left it out."""
        if isinstance(self._source, bytes):
            self._source = _decoded(self._source)
        return self._source


class Hit(_Sourced):
    """One document that a search returns.

    ``score`` is None where nothing was scored; ``sort`` holds the values sorted by, None when sorted by score
    alone; ``highlight`` the fragments by field, None when not asked for.
    """

    __slots__ = ("highlight", "id", "index", "score", "sort")

    def __init__(
        self,
        id: str,
        score: float | None = None,
        source: bytes | dict[str, Any] | None = None,
        sort: list[Any] | None = None,
        highlight: dict[str, list[str]] | None = None,
        index: str | None = None,
    ) -> None:
        self._source = source
        self.id, self.sort, self.highlight, self.index = id, sort, highlight, index
        self.score = score if score is None or type(score) is float else float(score)

    def to_dict(self) -> dict[str, Any]:
        """The hit in OpenSearch's form; keys are left out where OpenSearch leaves them out."""
        body: dict[str, Any] = {} if self.index is None else {"_index": self.index}
        body |= {"_id": self.id, "_score": self.score}
        if self.source is not None:
            body["_source"] = self.source
        if self.highlight:
            body["highlight"] = self.highlight
        if self.sort:
            body["sort"] = self.sort
        return body

    def __repr__(self) -> str:
        sort = "" if self.sort is None else f", sort={self.sort!r}"
        return f"Hit({self.id!r}, score={self.score!r}{sort})"


class Profile(msgspec.Struct, frozen=True):
    """How a search found its hits, and what it took.

    ``path``: ``union``, ``intersection`` or ``phrase`` are the pruned ways, ``sorted`` takes documents in the order of
    the index until there are enough, ``exhaustive`` scores or filters every matching document. Of the pruned ways are
    known: ``blocks`` of 128 postings decoded for the hits, ``postings`` in them, and ``ranges`` of 256 documents
    searched, of ``ranges_total``. Where ranges of numbers are asked for, ``granules`` of 8,192 values must be read to
    find them, of ``granules_total``; an earlier search may have kept the answer. Times are milliseconds: planning,
    finding and counting, and reading what the hits hold.
    """

    path: str
    segments: int
    ranges_total: int
    blocks: int | None
    postings: int | None
    ranges: int | None
    found: int | None
    plan_ms: float
    search_ms: float
    fetch_ms: float
    granules: int | None = None
    granules_total: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """OpenSearch's form: one shard, one query, whose breakdown is in nanoseconds."""
        breakdown = {"plan": self.plan_ms, "search": self.search_ms, "fetch": self.fetch_ms}
        counts = {name: getattr(self, name) for name in (
            "segments", "ranges_total", "ranges", "blocks", "postings", "granules_total", "granules")}
        query = {"type": self.path, "description": str(self).partition("\n")[0],
                 "time_in_nanos": int(1e6 * sum(breakdown.values())),
                 "breakdown": {name: int(1e6 * ms) for name, ms in breakdown.items()}
                 | {f"{name}_count": count for name, count in counts.items() if count is not None}}
        return {"shards": [{"searches": [{"query": [query]}]}]}

    def __str__(self) -> str:
        lines = [f"{self.path} over {self.segments:,} segments"]
        if self.ranges is not None:
            lines.append(f"  ranges    {self.ranges:,} of {self.ranges_total:,} searched")
            lines.append(f"  blocks    {self.blocks:,} decoded, {self.postings:,} postings scored")
        if self.granules is not None:
            lines.append(f"  granules  {self.granules:,} of {self.granules_total:,} read")
        lines.append(f"  found     {'not counted' if self.found is None else f'{self.found:,}'}")
        for name in ("plan", "search", "fetch"):
            lines.append(f"  {name:9} {getattr(self, name + '_ms') * 1000:,.1f} us")
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{_escaped(str(self))}</pre>"


class LazyHits(Protocol):
    """Hits that nobody has looked at yet."""

    def __len__(self) -> int: ...
    @property
    def max_score(self) -> float | None: ...
    def make(self) -> list[Hit]: ...


class SearchResult:
    """The answer to a search; a sequence of its hits.

    ``total`` is None when counting was turned off, ``max_score`` None when nothing was scored. ``pre_tag``
    and ``post_tag`` are what marks a highlight in the fragments of the hits. Hits of a search without sources and
    highlights are made when someone first looks at them; ``len`` does not. ``profile`` is there if it was asked for.
    ``unreached`` are segments that are missing from a partial result, each with the reason.
    """

    __slots__ = ("_hits", "_max_score", "aggs", "index", "post_tag", "pre_tag", "profile", "took_ms", "total",
                 "unreached")

    def __init__(
        self, total: Total | None, hits: list[Hit] | LazyHits, max_score: float | None = None,
        took_ms: float = 0.0, aggs: dict[str, Any] | None = None, index: str = "", pre_tag: str = "<em>",
        post_tag: str = "</em>",
    ) -> None:
        """``hits`` are hits, or what makes them and knows the greatest score."""
        self.total = total
        self._hits = hits
        self._max_score = max_score
        self.took_ms, self.aggs, self.index = took_ms, aggs, index
        self.pre_tag, self.post_tag = pre_tag, post_tag
        self.profile: Profile | None = None
        self.unreached: list[tuple[str, str]] = []

    @property
    def hits(self) -> list[Hit]:
        """The hits, best first."""
        hits = self._hits  # once: other threads may ask too
        if not isinstance(hits, list):
            self._max_score = hits.max_score
            self._hits = hits = hits.make()
        return hits

    @property
    def max_score(self) -> float | None:
        """The greatest score of any hit, also of those before this page."""
        hits = self._hits
        return self._max_score if isinstance(hits, list) else hits.max_score

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        """What is copied and pickled: hits that are made, and nothing of the index that they are from."""
        self.hits  # noqa: B018
        return None, {name: getattr(self, name) for name in self.__slots__}

    def to_dict(self) -> dict[str, Any]:
        """The response that OpenSearch would give."""
        hits: dict[str, Any] = {} if self.total is None else {"total": self.total.to_dict()}
        hits |= {
            "max_score": None if self.max_score is None else float(self.max_score),
            "hits": [{"_index": self.index} | hit.to_dict() for hit in self.hits],
        }
        body: dict[str, Any] = {
            "took": int(self.took_ms),
            "timed_out": False,
            "_shards": {"total": 1, "successful": 1, "skipped": 0, "failed": 0},
            "hits": hits,
        }
        if self.unreached:
            body["_shards"] |= {"failed": 1, "failures": [
                {"shard": 0, "index": self.index, "segment": name, "reason": {"type": "store_error", "reason": reason}}
                for name, reason in self.unreached]}
        if self.aggs is not None:
            body["aggregations"] = self.aggs
        if self.profile is not None:
            body["profile"] = self.profile.to_dict()
        return body

    def __len__(self) -> int:
        return len(self._hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    @overload
    def __getitem__(self, at: int) -> Hit: ...
    @overload
    def __getitem__(self, at: slice) -> list[Hit]: ...
    def __getitem__(self, at: int | slice) -> Hit | list[Hit]:
        return self.hits[at]

    def __repr__(self) -> str:
        columns = self._columns()
        rows = [list(columns)]
        for hit in self.hits[:_SHOWN_ROWS]:
            rows.append([_printable(cell, _SHOWN_CHARACTERS) for cell in self._cells(hit, columns)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [self._headline()]
        if self.hits:
            lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        if len(self.hits) > _SHOWN_ROWS:
            lines.append(f"... and {len(self.hits) - _SHOWN_ROWS} more")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        columns = self._columns()
        lines = [f"<p>{_escaped(self._headline())}</p>"]
        if self.hits:
            lines.append("<table><thead><tr>")
            lines += [f"<th>{name}</th>" for name in columns]
            lines.append("</tr></thead><tbody>")
            for hit in self.hits[:_SHOWN_ROWS_HTML]:
                cells = [self._cell_html(cell) for cell in self._cells(hit, columns)]
                lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
            lines.append("</tbody></table>")
        if len(self.hits) > _SHOWN_ROWS_HTML:
            lines.append(f"<p>... and {len(self.hits) - _SHOWN_ROWS_HTML} more</p>")
        return "".join(lines)

    def _headline(self) -> str:
        count = "" if self.total is None else f" of {self.total}"
        return f"{len(self.hits)}{count} hits in {self.took_ms:.2f} ms"

    def _columns(self) -> tuple[str, ...]:
        sorted_by = ("sort",) if any(hit.sort for hit in self.hits) else ()
        return ("score", *sorted_by, "id", "document")

    def _cells(self, hit: Hit, columns: tuple[str, ...]) -> list[str]:
        cells = ["-" if hit.score is None else f"{hit.score:.4f}"]
        if "sort" in columns:
            cells.append(", ".join(map(str, hit.sort or ())))
        return [*cells, hit.id, self._summary(hit)]

    def _summary(self, hit: Hit) -> str:
        """The fragments, or else the beginning of the source."""
        if hit.highlight:
            return " ... ".join(fragment for fragments in hit.highlight.values() for fragment in fragments)
        return "" if hit.source is None else json.dumps(hit.source, ensure_ascii=False)

    def _cell_html(self, cell: str) -> str:
        text = _escaped(_cut(cell, _SHOWN_CHARACTERS_LONG))
        if not self.pre_tag or not self.post_tag:
            return text
        # Only pairs become tags, and only tags of our own: what a document says stays text.
        pre, post = (re.escape(_escaped(tag)) for tag in (self.pre_tag, self.post_tag))
        return re.sub(f"{pre}(.*?){post}", r"<mark>\1</mark>", text, flags=re.DOTALL)


class WriteResult(msgspec.Struct, frozen=True):
    """What one write did: ``result`` is ``created``, ``updated``, ``deleted``, ``not_found`` or ``noop``."""

    id: str
    seq_no: int
    version: int
    primary_term: int
    result: str


class Document(_Sourced):
    """A document as the index holds it, refreshed or not."""

    __slots__ = ("id", "primary_term", "seq_no", "version")

    def __init__(
        self, id: str, source: bytes | dict[str, Any], seq_no: int, version: int, primary_term: int
    ) -> None:
        super().__init__(source)
        self.id, self.seq_no, self.version, self.primary_term = id, seq_no, version, primary_term

    @property
    def source(self) -> dict[str, Any]:
        """The document's fields."""
        source = super().source
        assert source is not None
        return source

    def __repr__(self) -> str:
        source = _printable(json.dumps(self.source, ensure_ascii=False), _SHOWN_CHARACTERS)
        return f"Document({self.id!r}, {source}, seq_no={self.seq_no}, version={self.version})"


class BulkFailure(msgspec.Struct, frozen=True):
    """One document of a bulk that was refused: its place in the input, its id if known, and why."""

    position: int
    id: str | None
    error: QuidditchError


class BulkReport(msgspec.Struct, frozen=True):
    """What a bulk did: documents indexed, those refused, and milliseconds."""

    indexed: int
    failed: list[BulkFailure] = msgspec.field(default_factory=list)
    took_ms: float = 0.0

    def __str__(self) -> str:
        counts = f"{self.indexed:,} documents indexed, {len(self.failed):,} failed"
        lines = [f"{counts}, in {self.took_ms:,.0f} ms"]
        for failure in self.failed[:_SHOWN_ROWS]:
            line = f"document {failure.position} ({failure.id}): {failure.error}"
            lines.append("  " + _printable(line, _SHOWN_CHARACTERS_LONG))
        if len(self.failed) > _SHOWN_ROWS:
            lines.append(f"  ... and {len(self.failed) - _SHOWN_ROWS} more")
        return "\n".join(lines)


class Explanation(msgspec.Struct, frozen=True):
    """Why a document has its score: a value, what it means, and the values it was computed from.

    ``match`` is False where the document does not match at all.
    """

    value: float
    description: str
    details: tuple[Explanation, ...] = ()
    match: bool = True

    def to_dict(self) -> dict[str, Any]:
        """OpenSearch's form."""
        details = [detail.to_dict() for detail in self.details]
        return {"value": float(self.value), "description": self.description, "details": details}

    def __str__(self) -> str:
        lines = [f"{self.value:.7g} = {_printable(self.description, _SHOWN_CHARACTERS_LONG)}"]
        lines += ["  " + line for detail in self.details for line in str(detail).split("\n")]
        return "\n".join(lines)


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong in an index.

    ``segment`` is the file (or the segment in memory), ``section`` a part of it, empty for the whole. What is
    wrong at several places of a section is one problem: ``count`` says how many, ``found`` shows the first.
    """

    segment: str
    section: str
    what: str
    found: Any = None
    expected: Any = None
    count: int = 1

    def __str__(self) -> str:
        place = f"{self.segment}, {self.section}" if self.section else self.segment
        text = f"{place}: {self.what}"
        if self.found is not None:
            text += f"; found {self.found}" if self.count == 1 else f"; found {self.found}, the first of {self.count:,}"
        return text if self.expected is None else f"{text}; expected {self.expected}"


class CheckReport(msgspec.Struct, frozen=True):
    """What a check of an index read, and every problem that it found; ``bytes`` of the files it read."""

    path: str
    segments: int
    docs: int
    bytes: int
    problems: list[Problem] = msgspec.field(default_factory=list)
    took_ms: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        counts = f"{self.segments:,} segments, {self.docs:,} documents, {self.bytes:,} bytes"
        lines = [f"{self.path}: {counts} checked in {self.took_ms:,.0f} ms"]
        lines += [_printable(str(problem), _SHOWN_CHARACTERS_LONG) for problem in self.problems]
        lines.append(f"{len(self.problems):,} problems" if self.problems else "no problems")
        return "\n".join(lines)


class Documents(msgspec.Struct, frozen=True):
    """Some documents of a segment that something happened to: of ``start`` .. ``stop`` - 1 those that may live.

    ``count`` is how many, None where nothing says so; ``ids`` are those of them that could be read.
    """

    segment: str
    start: int
    stop: int
    count: int | None
    ids: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        number = "an unknown number of" if self.count is None else f"{self.count:,}"
        place = f" from {self.start:,} to {self.stop - 1:,}" if self.stop > self.start else ""
        text = f"{self.segment}: {number} documents{place}: {self.why}"
        if self.ids:
            more = f" and {len(self.ids) - _SHOWN_ROWS:,} more" if len(self.ids) > _SHOWN_ROWS else ""
            text += f": {', '.join(self.ids[:_SHOWN_ROWS])}{more}"
        return text


class RepairReport(msgspec.Struct, frozen=True):
    """What a repair saved from the index at ``path`` into the one at ``to``.

    ``salvaged`` documents are in the new index. ``lost`` are those that lived and could not be read. ``unknown``
    are those of which nothing says whether they lived, or under which id: they are salvaged where they could be
    read. ``mended`` tells which bytes were found again from checksums, ``mapping`` where the mapping came from.
    """

    path: str
    to: str
    mapping: str
    salvaged: int
    lost: list[Documents] = msgspec.field(default_factory=list)
    unknown: list[Documents] = msgspec.field(default_factory=list)
    mended: list[str] = msgspec.field(default_factory=list)
    took_ms: float = 0.0

    @property
    def lost_docs(self) -> int:
        """How many documents are lost, as far as anything says so."""
        return sum(documents.count or 0 for documents in self.lost)

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.salvaged:,} documents salvaged into {self.to}, {self.lost_docs:,} lost "
                 f"(mapping from {self.mapping})"]
        for title, items in (("mended", self.mended), ("lost", self.lost), ("unknown", self.unknown)):
            lines += [_printable(f"{title}: {item}", _SHOWN_CHARACTERS_LONG) for item in items]
        return "\n".join(lines)


def _escaped(text: str) -> str:
    from html import escape  # only notebooks need it

    return escape(text)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _printable(text: str, length: int) -> str:
    """One line without characters that a terminal would obey."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else "\ufffd" for c in _cut(line, length))
