"""Metrics: what is counted, that threads lose nothing, and that Prometheus's own parser reads the text."""

from __future__ import annotations

import math
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import quidditch_core as qc
from quidditch_core import metrics
from quidditch_core import query as q


def read(**labels: str) -> dict[str, float]:
    """The samples with these labels, by name and what other labels they have."""
    found = {}
    for family in metrics.collect():
        for sample in family.samples:
            if labels.items() <= sample.labels.items():
                rest = {name: value for name, value in sample.labels.items() if name not in labels}
                found[" ".join([sample.name, *rest.values()])] = sample.value
    return found


def test_an_index_counts_what_it_does(tmp_path: Path) -> None:
    with qc.create(tmp_path / "counted", {"properties": {"n": {"type": "integer"}}},
                   settings={"index.refresh_interval": -1}) as index:
        index.put("1", {"n": 1})
        report = index.bulk([{"n": 2}, {"n": "many"}, {"n": 3}])
        assert report.indexed == 2
        index.update("1", {"n": 4})
        index.update("1", {"n": 4})  # changes nothing
        index.delete("1")
        index.flush()
        index.put("2", {"n": 5})
        index.merge()
        for _ in range(3):
            index.search(q.MatchAll())
        index.count(q.MatchAll())
        found = read(index="counted")
        assert found["quidditch_indexing_docs_total index"] == 5
        assert found["quidditch_indexing_docs_total delete"] == 1
        assert found["quidditch_query_total"] == found["quidditch_query_latency_seconds_count"] == 4
        assert found["quidditch_query_latency_seconds_bucket +Inf"] == 4
        assert 0 < found["quidditch_query_latency_seconds_sum"] < 60
        assert found["quidditch_merge_total"] >= 1
        assert found["quidditch_docs"] == 3
        assert found["quidditch_disk_usage_bytes hot"] == sum(info.bytes for info in index.segments())
        assert found["quidditch_disk_capacity_bytes hot"] > 2**20
        assert found["quidditch_translog_operations_total"] == index.stats()["translog"]["operations"]
        assert found["quidditch_translog_fsyncs_total"] >= 1
    assert not {name for name in read(index="counted") if "disk" in name or "translog" in name}


@given(st.floats(0, 40))
def test_a_histogram_has_each_observation_in_its_bucket(seconds: float) -> None:
    histogram = metrics.Histogram()
    histogram.observe(seconds)
    buckets, total = histogram.read()
    place = buckets.index(1)
    assert (sum(buckets), total) == (1, seconds)
    assert place == len(metrics.BOUNDS) or seconds <= metrics.BOUNDS[place] * (1 + 1e-9)
    assert place == 0 or seconds >= metrics.BOUNDS[place - 1] * (1 - 1e-9)


def test_threads_lose_nothing_and_leave_nothing() -> None:
    counter = metrics.Counter()

    def count() -> None:
        for _ in range(100):
            counter.add()

    for _ in range(40):
        threads = [threading.Thread(target=count) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert counter.read() == 40 * 10 * 100
    assert len(counter._numbers._all) <= 64 + 10


def test_gauges_come_and_go_while_they_are_read() -> None:
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            metrics.Watched(list).end()

    kept = [metrics.Watched(list) for _ in range(50)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=come_and_go) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        for _ in range(10_000):
            metrics.collect()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
        for watched in kept:
            watched.end()


def test_prometheus_reads_both_forms() -> None:
    metrics.INDEXED.labels('odd "name"\\\n', "index").add(2.5)
    metrics.LATENCY.labels("odd").observe(0.25)
    registry = CollectorRegistry()
    registry.register(metrics.Collector())
    ours = {family.name: family for family in text_string_to_metric_families(metrics.text())}
    exported = {family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())}
    assert set(ours) == set(exported)
    for name, family in ours.items():
        assert family.type == exported[name].type
        assert ({(sample.name, *sorted(sample.labels.items())): sample.value for sample in family.samples}
                == {(sample.name, *sorted(sample.labels.items())): sample.value for sample in exported[name].samples})
    docs = {sample.labels["index"]: sample.value for sample in ours["quidditch_indexing_docs"].samples
            if sample.labels["operation"] == "index"}
    assert docs['odd "name"\\\n'] == 2.5
    latency = [sample for sample in ours["quidditch_query_latency_seconds"].samples if sample.labels["index"] == "odd"]
    least = min(float(sample.labels["le"]) for sample in latency if "le" in sample.labels and sample.value)
    assert math.isclose(least, 2**18 * 1e-6)


def test_labels_are_checked() -> None:
    with pytest.raises(ValueError, match="labels"):
        metrics.INDEXED.labels("one")
