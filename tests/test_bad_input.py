"""What a clumsy caller gets: a typed error that says where, what was found and what was expected; nothing changed."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import quidditch_core as qc
from quidditch_core import errors
from quidditch_core import query as q

MAPPING: dict[str, Any] = {"dynamic": "strict", "properties": {
    "title": {"type": "text"}, "tag": {"type": "keyword"}, "year": {"type": "integer"}, "when": {"type": "date"},
    "ok": {"type": "boolean"}, "hidden": {"type": "keyword", "index": False, "doc_values": False},
    "raw": {"type": "text", "analyzer": "keyword"}}}


@pytest.fixture
def index(tmp_index: Callable[..., Any]) -> Any:
    made = tmp_index(MAPPING, settings={"refresh_interval": "-1"})
    made.put("a", {"title": "whale", "tag": "sea", "year": 1851})
    made.refresh()
    return made


DOCUMENTS: list[tuple[Any, str]] = [
    ({"year": "soon"}, "year"), ({"year": 2**40}, "year"), ({"year": 1.5e300}, "year"),
    ({"year": float("nan")}, "year"),
    ({"year": {"a": 1}}, "year"), ({"when": "yesterday-ish"}, "when"), ({"ok": "maybe"}, "ok"),
    ({"title": {"a": 1}}, "title"), ({"tag": "x" * 40_000}, "tag"), ({"raw": "x" * 40_000}, "raw"),
    ({"unknown": 1}, "unknown"), ({"title": "\ud800"}, "title"), ({"year": 10**5000}, "year"), ({1: "a"}, "1"),
    (b'{"year": 1', "JSON"), (b'[1]', "object"), ("{} {}", "JSON"), (b"\xff", "JSON"), (None, "document"),
    ([{"year": 1}], "document"), (7, "document"), ({"_id": "x"}, "_id"),
]


@pytest.mark.parametrize(("doc", "names"), DOCUMENTS, ids=[str(at) for at in range(len(DOCUMENTS))])
def test_a_bad_document_is_named_and_leaves_nothing(index: Any, doc: Any, names: str) -> None:
    before = index.stats()["max_seq_no"]
    with pytest.raises(errors.DocumentError) as caught:
        index.put("a", doc)
    assert names in str(caught.value)
    assert caught.value.expected or caught.value.fix
    assert index.get("a").source["year"] == 1851
    assert index.stats()["max_seq_no"] == before
    report = index.bulk([{"year": 1}, doc, {"year": 2}])
    assert report.indexed == 2
    assert [(failure.position, type(failure.error)) for failure in report.failed] == [(1, errors.DocumentError)]
    index.refresh()
    assert index.count() == 3


BODIES: list[tuple[Any, type[Exception], str]] = [
    ({"query": {"mtach": {"title": "x"}}}, errors.QueryError, "did you mean 'match'"),
    ({"query": {"match": {"title": {"qurey": "x"}}}}, errors.QueryError, "query.match.title"),
    ({"query": {"bool": {"must": [{"match_all": {}}, {"term": {"year": "soon"}}]}}}, errors.QueryError,
     "query.bool.must[1].term.year"),
    ({"query": {"range": {"when": {"gte": "whenever"}}}}, errors.QueryError, "query.range.when"),
    ({"query": {"prefix": {"year": "1"}}}, errors.QueryError, "query.prefix.year"),
    ({"query": {"term": {"hidden": "x"}}}, errors.QueryError, "query.term.hidden"),
    ({"query": []}, errors.QueryError, "query"), ({"query": {}}, errors.QueryError, "query"),
    ({"query": {"match": {}}}, errors.QueryError, "query.match"),
    ({"match": {"title": "x"}}, errors.QueryError, "match"), ([], errors.QueryError, "search body"),
    ({"size": -1}, errors.QueryError, "size"), ({"size": True}, errors.QueryError, "size"),
    ({"size": 10**6}, errors.QueryError, "max_result_window"), ({"from": "x"}, errors.QueryError, "from"),
    ({"size": 10**5000}, errors.QueryError, "size"),
    ({"sort": "nowhere"}, errors.QueryError, "nowhere"), ({"sort": "title"}, errors.QueryError, "title"),
    ({"sort": [{"year": {"missing": "soon"}}]}, errors.QueryError, "year"),
    ({"track_total_hits": "yes"}, errors.QueryError, "track_total_hits"),
    ({"_source": 7}, errors.QueryError, "_source"),
    ({"highlight": {"fields": {"nowhere": {}}}}, errors.QueryError, "nowhere"),
    ({"aggs": {"a": {"top_hits": {}}}}, errors.UnsupportedError, "aggs.a.top_hits"),
    ({"aggs": {"a": {"avg": {"field": "title"}}}}, errors.QueryError, "aggs.a.avg.field"),
    ({"query": {"wildcard": {"tag": "s*"}}}, errors.UnsupportedError, "wildcard"),
    ({"search_after": [1]}, errors.UnsupportedError, "search_after"), ({"qurey": {}}, errors.QueryError, "query"),
]


@pytest.mark.parametrize(("body", "kind", "names"), BODIES, ids=[str(at) for at in range(len(BODIES))])
def test_a_bad_body_is_an_error_with_its_path(index: Any, body: Any, kind: type[Exception], names: str) -> None:
    with pytest.raises(kind) as caught:
        index.search(body)
    assert names in str(caught.value)


def test_depth_and_clauses_are_bounded(index: Any) -> None:
    deep: dict[str, Any] = {"match_all": {}}
    for _ in range(50):
        deep = {"bool": {"must": [deep]}}
    with pytest.raises(errors.QueryError, match="deep"):
        index.search({"query": deep})
    with pytest.raises(errors.QueryError, match="1024"):
        index.search({"query": {"bool": {"should": [{"term": {"tag": str(n)}} for n in range(1025)]}}})
    with pytest.raises(errors.QueryError, match="65536"):
        q.Terms("tag", tuple(map(str, range(65_537))))


CALLS: list[tuple[Callable[[Any], Any], type[Exception]]] = [
    (lambda index: index.put("", {}), errors.DocumentError),
    (lambda index: index.put("x" * 513, {}), errors.DocumentError),
    (lambda index: index.put(7, {}), errors.DocumentError),
    (lambda index: index.put("\ud800", {}), errors.DocumentError),
    (lambda index: index.put("a", {}, op_type="upsert"), errors.DocumentError),
    (lambda index: index.put("a", {}, op_type="create"), errors.ConflictError),
    (lambda index: index.put("a", {}, if_seq_no=99), errors.ConflictError),
    (lambda index: index.put("a", {}, if_seq_no="0"), errors.DocumentError),
    (lambda index: index.update("nobody", {"year": 1}), errors.NotFoundError),
    (lambda index: index.update("a", ["year"]), errors.DocumentError),
    (lambda index: index.get(None), errors.DocumentError), (lambda index: index.delete(b"a"), errors.DocumentError),
    (lambda index: index.explain(q.MatchAll(), "nobody"), errors.NotFoundError),
    (lambda index: index.bulk({"year": 1}), errors.DocumentError), (lambda index: index.bulk(7), errors.DocumentError),
    (lambda index: index.merge(0), errors.SettingsError), (lambda index: index.merge("1"), errors.SettingsError),
    (lambda index: index.put_settings({"refresh_intervall": "1s"}), errors.SettingsError),
    (lambda index: index.put_settings({"number_of_shards": 2}), errors.SettingsError),
    (lambda index: index.put_settings(["x"]), errors.SettingsError),
    (lambda index: index.put_mapping({"properties": {"year": {"type": "text"}}}), errors.MappingError),
    (lambda index: index.put_mapping({"properties": {"b": {"type": "txet"}}}), errors.MappingError),
    (lambda index: index.put_mapping({"properties": {"b": {"type": "geo_point"}}}), errors.UnsupportedError),
    (lambda index: index.analyze(7), errors.RequestError),
    (lambda index: index.analyze("x", analyzer="standart"), errors.MappingError),
    (lambda index: index.count("year:1"), errors.QueryError), (lambda index: index.count(7), errors.QueryError),
]


@pytest.mark.parametrize("at", range(len(CALLS)))
def test_a_bad_call_is_a_typed_error(index: Any, at: int) -> None:
    call, kind = CALLS[at]
    with pytest.raises(kind):
        call(index)
    assert index.get("a").version == 1


def test_paths(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for path in (file, "", "a\0b", 7, None):
        with pytest.raises(errors.InvalidNameError):
            qc.create(path)  # type: ignore[arg-type]
    with pytest.raises(errors.IndexNotFoundError):
        qc.open(tmp_path / "nowhere")
    with pytest.raises(errors.UnsupportedError):
        qc.open("s3://bucket/index")
    with pytest.raises(errors.SettingsError):
        qc.create(tmp_path / "tiered", tiers="s3://bucket/index")  # type: ignore[arg-type]
    qc.create(tmp_path / "index").close()
    with pytest.raises(errors.IndexExistsError):
        qc.create(tmp_path / "index")


def test_closed_read_only_and_second_writer(tmp_path: Path) -> None:
    with qc.create(tmp_path / "index", MAPPING) as index:
        with pytest.raises(errors.LockError, match="process"):
            qc.open(tmp_path / "index")
        with qc.open(tmp_path / "index", read_only=True) as reader:
            for write in (lambda: reader.put("a", {}), reader.flush, reader.merge, lambda: reader.bulk([])):
                with pytest.raises(errors.ReadOnlyError):
                    write()
            assert reader.count() == 0
            index.put("a", {"year": 1})
            index.flush()
            assert reader.count() == 0
            reader.refresh()
            assert reader.count() == 1
        held = index.reader()
    index.close()
    for use in (index.count, lambda: index.put("a", {}), index.refresh, index.reader, index.segments):
        with pytest.raises(errors.IndexClosedError):
            use()
    assert held.count() == 1  # a reader outlives its index
    held.close()
    with pytest.raises(errors.IndexClosedError):
        held.count()


def test_a_fork_may_not_use_it(index: Any) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def child() -> None:
        found = []
        for use in (lambda: index.put("b", {}), index.count, index.flush):
            try:
                use()
                found.append("worked")
            except errors.IndexClosedError:
                found.append("refused")
        queue.put(found)

    process = context.Process(target=child)
    process.start()
    assert queue.get() == ["refused"] * 3
    process.join()
    index.put("b", {"year": 2})
