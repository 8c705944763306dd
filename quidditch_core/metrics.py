"""Counters and histograms of this process, in the terms of Prometheus; nothing here knows HTTP.

::

    from quidditch_core import metrics

    print(metrics.text())                                           # the text format that Prometheus scrapes
    prometheus_client.REGISTRY.register(metrics.Collector())        # or through prometheus-client

Counting costs a fraction of a microsecond and takes no lock: each thread has cells of its own, summed when they are
read. Gauges are computed when they are read, by what registered them (an open index does, until it is closed).
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import msgspec

BOUNDS: Final = tuple(2.0**power * 1e-6 for power in range(25))
"""Upper bounds of the buckets of a histogram in seconds: 1 us, 2 us, 4 us, ... 16.8 s; beyond is one more bucket."""

_FOLDED: Final = 64
"""Cells of so many threads are kept apart; then those of threads that ended become one."""


class Sample(msgspec.Struct, frozen=True):
    """One number: ``name`` with its suffix (``_total``, ``_bucket``, ``_sum``, ``_count``), and its labels."""

    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, frozen=True):
    """Samples of one metric. ``kind``: counter, gauge or histogram."""

    name: str
    kind: str
    help: str
    samples: list[Sample]


class _Cells(threading.local):
    """The numbers of one thread."""

    def __init__(self, owner: _Numbers) -> None:
        self.values = owner.add()


class _Numbers:
    """``size`` numbers that many threads add to."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._ended = [0.0] * size
        self._all: list[tuple[weakref.ref[threading.Thread], list[float]]] = []
        self.mine = _Cells(self)

    def add(self) -> list[float]:
        values = [0.0] * self._size
        with self._lock:
            if len(self._all) >= _FOLDED:
                living = [(t := thread()) is not None and t.is_alive() for thread, _ in self._all]
                gone = [each for (_, each), lives in zip(self._all, living, strict=True) if not lives]
                self._ended = [sum(column) for column in zip(self._ended, *gone, strict=True)]
                self._all = list(itertools.compress(self._all, living))
            self._all.append((weakref.ref(threading.current_thread()), values))
        return values

    def read(self) -> list[float]:
        with self._lock:
            return [sum(column) for column in zip(self._ended, *(each for _, each in self._all), strict=True)]


class Counter:
    """A number that only grows."""

    __slots__ = ("_cells", "_numbers")

    def __init__(self) -> None:
        self._numbers = _Numbers(1)
        self._cells = self._numbers.mine

    def add(self, n: float = 1) -> None:
        self._cells.values[0] += n

    def read(self) -> float:
        return self._numbers.read()[0]


class Histogram:
    """How many observations fell under each of `BOUNDS`, and their sum."""

    __slots__ = ("_cells", "_numbers")

    def __init__(self) -> None:
        self._numbers = _Numbers(len(BOUNDS) + 2)
        self._cells = self._numbers.mine

    def observe(self, seconds: float) -> None:
        values = self._cells.values
        bucket = int(seconds * 1e6 - 1e-9).bit_length() if seconds > 1e-6 else 0
        values[bucket if bucket < 25 else 25] += 1
        values[26] += seconds

    def read(self) -> tuple[list[float], float]:
        """Observations by bucket, not cumulated, the last one beyond all bounds; and their sum in seconds."""
        *buckets, total = self._numbers.read()
        return buckets, total


class Metric:
    """One metric by name, with a `Counter` or `Histogram` for each set of label values."""

    def __init__(self, name: str, help: str, labels: tuple[str, ...], of: type[Counter] | type[Histogram]) -> None:
        self.name, self.help, self._labels, self._of = name, help, labels, of
        self._children: dict[tuple[str, ...], Any] = {}
        self._lock = threading.Lock()
        _metrics.append(self)

    def labels(self, *values: str) -> Any:
        """The counter or histogram of these label values, in the order of the metric's labels."""
        child = self._children.get(values)
        if child is None:
            if len(values) != len(self._labels):
                raise ValueError(f"{self.name} has the labels {self._labels}, not {len(values)} values")
            with self._lock:
                child = self._children.setdefault(values, self._of())
        return child

    def family(self) -> Family:
        samples: list[Sample] = []
        for values, child in sorted(self._children.items()):
            labels = dict(zip(self._labels, values, strict=True))
            samples += self._counter(child, labels) if self._of is Counter else self._histogram(child, labels)
        return Family(self.name, "counter" if self._of is Counter else "histogram", self.help, samples)

    def _counter(self, child: Counter, labels: dict[str, str]) -> Iterable[Sample]:
        return [Sample(self.name, labels, child.read())]

    def _histogram(self, child: Histogram, labels: dict[str, str]) -> Iterator[Sample]:
        buckets, total = child.read()
        count = 0.0
        for bound, found in zip((*map(repr, BOUNDS), "+Inf"), buckets, strict=True):
            count += found
            yield Sample(f"{self.name}_bucket", {**labels, "le": bound}, count)
        yield Sample(f"{self.name}_sum", labels, total)
        yield Sample(f"{self.name}_count", labels, count)


_metrics: list[Metric] = []
_gauges: weakref.WeakSet[Any] = weakref.WeakSet()
_gauges_lock: Final = threading.Lock()

LATENCY: Final = Metric("quidditch_query_latency_seconds", "Time of searches, with fetching.", ("index",), Histogram)
QUERIES: Final = "quidditch_query_total"
INDEXED: Final = Metric("quidditch_indexing_docs_total", "Documents put, updated or deleted.", ("index", "operation"),
                        Counter)
MERGES: Final = Metric("quidditch_merge_total", "Merges that were published.", ("index",), Counter)
PUBLISHED: Final = Metric("quidditch_publish_total", "Editions that were published.", ("index",), Counter)
PUBLISHED_BYTES: Final = Metric("quidditch_publish_bytes_total", "Bytes that were sent for them.", ("index",), Counter)
MERGED_DOCS: Final = Metric("quidditch_merge_docs_total", "Documents that merges wrote.", ("index",), Counter)


class Gauge(msgspec.Struct, frozen=True):
    """A number of this moment, for `watch`."""

    name: str
    help: str
    labels: dict[str, str]
    value: float
    kind: str = "gauge"


class Watched:
    """What has gauges as long as it is watched: ``gauges`` is called whenever metrics are read."""

    def __init__(self, gauges: Callable[[], Iterable[Gauge]]) -> None:
        self.gauges = gauges
        with _gauges_lock:
            _gauges.add(self)

    def end(self) -> None:
        with _gauges_lock:
            _gauges.discard(self)


def collect() -> list[Family]:
    """All metrics as they are now, by name."""
    families = {metric.name: metric.family() for metric in _metrics}
    families[QUERIES] = Family(QUERIES, "counter", "Searches.", [
        Sample(QUERIES, sample.labels, sample.value) for sample in families[LATENCY.name].samples
        if sample.name.endswith("_count")])
    with _gauges_lock:
        watching = list(_gauges)
    for watched in watching:
        for gauge in watched.gauges():
            family = families.setdefault(gauge.name, Family(gauge.name, gauge.kind, gauge.help, []))
            family.samples.append(Sample(gauge.name, gauge.labels, gauge.value))
    return [families[name] for name in sorted(families) if families[name].samples]


def text() -> str:
    """All metrics in the text format of Prometheus, version 0.0.4."""
    lines = []
    for family in collect():
        lines += [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}"]
        for sample in family.samples:
            labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sample.labels.items())
            number = int(sample.value) if sample.value == int(sample.value) else repr(sample.value)
            lines.append(f"{sample.name}{{{labels}}} {number}" if labels else f"{sample.name} {number}")
    return "\n".join(lines) + "\n" if lines else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Collector:
    """For ``prometheus_client.REGISTRY.register(Collector())``; needs that package when it is scraped."""

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import Metric as Exported

        for family in collect():
            # prometheus-client names the family of a counter without its suffix.
            name = family.name.removesuffix("_total") if family.kind == "counter" else family.name
            exported = Exported(name, family.help, family.kind)
            for sample in family.samples:
                exported.add_sample(sample.name, sample.labels, sample.value)
            yield exported
