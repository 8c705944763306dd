"""Settings and storage tiers: what a user may choose about an index, with OpenSearch's names and defaults.

``Settings`` holds native values (seconds, bytes, numbers); its dict form is OpenSearch's, where every value
is text with its unit. A setting is declared once: a field, with its OpenSearch name and its ``Kind``.
"""

from __future__ import annotations

import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypeGuard

from quidditch_core.errors import SettingsError, UnsupportedError, nearest


class Durability(StrEnum):
    """When an acknowledged operation is on disk."""

    REQUEST = "request"
    """Before the call returns."""
    ASYNC = "async"
    """At the next sync; ``index.translog.sync_interval`` apart."""


@dataclass(frozen=True, slots=True)
class Watermark:
    """How full a disk may be: percent in use (``"85%"``) or bytes that stay free (``"10gb"``), never both."""

    percent: float | None = None
    free: int | None = None

    def reached(self, *, total: int, free: int) -> bool:
        """Whether a disk of ``total`` bytes, ``free`` of them free, is at the mark or past it."""
        if self.free is not None:
            return free <= self.free
        return self.percent is not None and (total - free) * 100 >= self.percent * total


class SortBy(NamedTuple):
    """One key of the order in which documents are numbered: a column, and of several values the least or greatest."""

    field: str
    descending: bool
    missing_first: bool
    greatest: bool


# Quantities as text -----------------------------------------------------------------------------------------

_QUANTITY = re.compile(r"([0-9]{1,19}) ?([a-z]*)", re.IGNORECASE | re.ASCII)
_MILLISECONDS: Final = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_BYTES: Final = {"pb": 2**50, "tb": 2**40, "gb": 2**30, "mb": 2**20, "kb": 2**10, "b": 1}
_SHORT_BYTES: Final = {unit[0]: size for unit, size in _BYTES.items()}
_MAX_SECONDS: Final = 366 * 86_400
_MAX_BYTES: Final = 2**63 - 1


def parse_time(text: str) -> float | None:
    """Seconds of ``"500ms"``, ``"1s"``, ``"2m"``, ``"1h"``, ``"1d"``; 0 needs none. None: it is no time."""
    found = _QUANTITY.fullmatch(text)
    if found is None:
        return None
    count, unit = int(found[1]), found[2].lower()
    if unit not in _MILLISECONDS:
        return 0.0 if count == 0 and not unit else None
    return count * _MILLISECONDS[unit] / 1_000


def format_time(seconds: float) -> str:
    """The largest unit that gives a whole number; milliseconds are the smallest."""
    ms = round(seconds * 1_000)
    unit = next(unit for unit, size in _MILLISECONDS.items() if ms % size == 0) if ms else "s"
    return f"{ms // _MILLISECONDS[unit]}{unit}"


def parse_bytes(text: str) -> int | None:
    """Bytes of ``"512mb"``, powers of 1,024 from b to pb; 0 needs no unit. None: it is no size."""
    found = _QUANTITY.fullmatch(text)
    if found is None:
        return None
    count, unit = int(found[1]), found[2].lower()
    size = _BYTES.get(unit) or _SHORT_BYTES.get(unit)
    if size is None:
        return 0 if count == 0 and not unit else None
    return count * size


def format_bytes(size: int) -> str:
    """The largest unit that gives a whole number: ``format_bytes(2**29) == "512mb"``."""
    unit = next(unit for unit, bytes_ in _BYTES.items() if size % bytes_ == 0) if size else "b"
    return f"{size // _BYTES[unit]}{unit}"


# Kinds of settings ------------------------------------------------------------------------------------------


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


class Kind(ABC):
    """How the values of a setting are read, checked and written."""

    expected: str

    @abstractmethod
    def read(self, value: Any) -> Any:
        """The native value of OpenSearch's form, or None; ``holds`` has the last word on it."""

    @abstractmethod
    def holds(self, native: Any) -> bool:
        """Whether a native value is of this kind and within its bounds."""

    def write(self, native: Any) -> str | list[str]:
        """OpenSearch's form of a native value: ``read`` of it is the value again."""
        return str(native)


class Time(Kind):
    """Seconds, a float; with ``off``, -1 is allowed and turns the thing off."""

    def __init__(self, minimum: float = 0.0, *, off: bool = False) -> None:
        self.minimum, self.off = minimum, off
        least = f" of at least {format_time(minimum)}" if minimum else ""
        unitless = "only 0 and -1, which is off, need none" if off else "a unit is required"
        self.expected = f'a time{least} with its unit, like "500ms", "1s" or "5m" ({unitless})'

    def read(self, value: Any) -> Any:
        if self.off and isinstance(value, str | int) and value in ("-1", -1):
            return -1.0
        if _is_int(value) and value == 0:
            return 0.0
        return parse_time(value) if isinstance(value, str) else None

    def holds(self, native: Any) -> bool:
        if not (_is_int(native) or isinstance(native, float)) or not math.isfinite(native):
            return False
        whole = round(native * 1_000) / 1_000 == native  # milliseconds
        return (self.off and native == -1) or (whole and self.minimum <= native <= _MAX_SECONDS)

    def write(self, native: Any) -> str:
        return "-1" if native == -1 else format_time(native)


class Bytes(Kind):
    """A number of bytes, at least 1."""

    expected = 'a size with its unit, like "512mb": b, kb, mb, gb, tb or pb'

    def read(self, value: Any) -> Any:
        return parse_bytes(value) if isinstance(value, str) else None

    def holds(self, native: Any) -> bool:
        return _is_int(native) and 1 <= native <= _MAX_BYTES

    def write(self, native: Any) -> str:
        return format_bytes(native)


class Integer(Kind):
    """An integer of a range; OpenSearch takes and prints it as text, too."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high
        self.expected = f"an integer from {low} to {high}"

    def read(self, value: Any) -> Any:
        if isinstance(value, str) and re.fullmatch("[0-9]{1,10}", value):
            return int(value)
        return value

    def holds(self, native: Any) -> bool:
        return _is_int(native) and self.low <= native <= self.high


class Choice(Kind):
    """One of some names."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.expected = " or ".join(f'"{name}"' for name in names)

    def read(self, value: Any) -> Any:
        return value

    def holds(self, native: Any) -> bool:
        return isinstance(native, str) and native in self.names


class DurabilityChoice(Choice):
    """A ``Durability``, in any case of letters, as OpenSearch takes it."""

    def read(self, value: Any) -> Any:
        lowered = value.lower() if isinstance(value, str) else None
        return Durability(lowered) if lowered in self.names else None

    def holds(self, native: Any) -> bool:
        return isinstance(native, Durability)


class Names(Kind):
    """Names, or a single one: a list, or text with commas between; without ``choice`` any are allowed."""

    def __init__(self, *choice: str) -> None:
        self.choice = choice
        each = " or ".join(f'"{name}"' for name in choice) if choice else "a name"
        self.expected = f"{each}, or a list of them"

    def read(self, value: Any) -> Any:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
            return None
        return tuple(part.strip() for part in parts)

    def holds(self, native: Any) -> bool:
        return isinstance(native, tuple) and len(native) <= MAX_SORT_KEYS and all(
            isinstance(name, str) and (name in self.choice if self.choice else bool(name)) for name in native)

    def write(self, native: Any) -> str | list[str]:
        return "".join(native) if len(native) == 1 else list(native)


class Mark(Kind):
    """A ``Watermark``."""

    expected = 'a share in use, like "85%" or "0.85", or the space to leave free, like "10gb"'

    def read(self, value: Any) -> Any:
        text = str(value) if isinstance(value, float) else value
        if not isinstance(text, str):
            return None
        share = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)(%?)", text)
        if share is None:
            free = parse_bytes(text)
            return None if free is None else Watermark(free=free)
        return Watermark(percent=float(share[1]) if share[2] else round(float(share[1]) * 100, 6))

    def holds(self, native: Any) -> bool:
        if not isinstance(native, Watermark) or (native.percent is None) == (native.free is None):
            return False
        percent, free = native.percent, native.free
        if percent is None:
            return _is_int(free) and 0 <= free <= _MAX_BYTES
        return isinstance(percent, int | float) and 0 <= percent <= 100 and round(percent, 6) == percent

    def write(self, native: Any) -> str:
        if native.percent is None:
            return format_bytes(native.free)
        return f"{native.percent:.6f}".rstrip("0").rstrip(".") + "%"


# Settings ---------------------------------------------------------------------------------------------------


def _as(key: str, kind: Kind, *, static: bool = False) -> dict[str, Any]:
    """What a field of ``Settings`` says of itself: its OpenSearch name, kind, and whether it may change."""
    return {"key": key, "kind": kind, "static": static}


MAX_SORT_KEYS: Final = 16
"""Fields that an index is sorted by, at most."""
MAX_THREADS: Final = 64
"""Threads that build one segment."""
MAX_SLICES: Final = 64
"""Threads of one search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one index, validated: SettingsError names the setting, what was found and what fits.

    Times are seconds (float), sizes bytes (int).
    """

    refresh_interval: float = field(default=1.0, metadata=_as("index.refresh_interval", Time(off=True)))
    """How often a background refresh makes writes searchable; 0 and -1 turn it off."""
    codec: str = field(
        default="default", metadata=_as("index.codec", Choice("default", "diagon_best_compression"))
    )
    """How new segments are compressed; existing ones stay as they are until merged."""
    number_of_shards: int = field(
        default=1, metadata=_as("index.number_of_shards", Integer(1, 1_024), static=True)
    )
    """Stored for the server; an embedded index is one shard."""
    number_of_replicas: int = field(default=0, metadata=_as("index.number_of_replicas", Integer(0, 1_024)))
    """Stored for the server."""
    translog_durability: Durability = field(
        default=Durability.REQUEST, metadata=_as("index.translog.durability", DurabilityChoice(*Durability))
    )
    translog_sync_interval: float = field(
        default=5.0, metadata=_as("index.translog.sync_interval", Time(minimum=0.1))
    )
    """Time between syncs with ``async`` durability."""
    translog_flush_threshold_size: int = field(
        default=2**29, metadata=_as("index.translog.flush_threshold_size", Bytes())
    )
    """Size of the log that causes a flush."""
    max_result_window: int = field(
        default=10_000, metadata=_as("index.max_result_window", Integer(1, 2**31 - 1))
    )
    """Largest ``from`` + ``size``."""
    disk_watermark_low: Watermark = field(
        default=Watermark(percent=85.0), metadata=_as("cluster.routing.allocation.disk.watermark.low", Mark())
    )
    """Warn."""
    disk_watermark_high: Watermark = field(
        default=Watermark(percent=90.0),
        metadata=_as("cluster.routing.allocation.disk.watermark.high", Mark()),
    )
    """Ask tiering to move segments away."""
    disk_watermark_flood_stage: Watermark = field(
        default=Watermark(percent=95.0),
        metadata=_as("cluster.routing.allocation.disk.watermark.flood_stage", Mark()),
    )
    """Refuse writes."""
    search_slices: int = field(
        default=1, metadata=_as("index.search.concurrent.max_slice_count", Integer(1, MAX_SLICES))
    )
    """Threads that one search may use, each for some of the segments."""
    write_threads: int = field(default=0, metadata=_as("thread_pool.write.size", Integer(0, MAX_THREADS)))
    """Threads that build and write segments; 0: as many as the process has cores."""
    index_buffer_size: int = field(
        default=2**28, metadata=_as("indices.memory.index_buffer_size", Bytes())
    )
    """Memory that documents may take before they become a segment."""
    sort_field: tuple[str, ...] = field(default=(), metadata=_as("index.sort.field", Names(), static=True))
    """Fields that the documents of every segment are sorted by."""
    sort_order: tuple[str, ...] = field(
        default=(), metadata=_as("index.sort.order", Names("asc", "desc"), static=True))
    """One for each of ``sort_field``; without, all ascend."""
    sort_missing: tuple[str, ...] = field(
        default=(), metadata=_as("index.sort.missing", Names("_last", "_first"), static=True))
    """Where documents without a value go; without, to the end."""
    sort_mode: tuple[str, ...] = field(
        default=(), metadata=_as("index.sort.mode", Names("min", "max"), static=True))
    """Which of several values counts; without, the least where it ascends, else the greatest."""

    def __post_init__(self) -> None:
        for one in fields(self):
            kind: Kind = one.metadata["kind"]
            native = getattr(self, one.name)
            if not kind.holds(native):
                raise SettingsError("the value does not fit", path=one.metadata["key"], found=native,
                                    expected=kind.expected)
        self._check_watermarks()
        self._check_sort()

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Settings:
        """Read OpenSearch's form: dotted, nested or mixed keys, ``index.`` optional, null for the default.

        SettingsError for an unknown key, naming the nearest known one, and for a value that does not fit;
        UnsupportedError for what OpenSearch has and this version does not.
        """
        return cls(**_read(body))

    def updated(self, changes: Mapping[str, Any]) -> Settings:
        """These settings with changes in any form of ``from_dict``; null resets to the default."""
        new = replace(self, **_read(changes))
        for one in fields(self):
            before, after = getattr(self, one.name), getattr(new, one.name)
            if one.metadata["static"] and before != after:
                raise SettingsError(
                    "this setting is fixed when the index is created", path=one.metadata["key"], found=after,
                    expected=f"{before!r}, as it is", fix="reindex into a new index to change it",
                )
        return new

    def to_dict(self) -> dict[str, Any]:
        """OpenSearch's nested form of all settings, every value as text; ``from_dict`` reads it back."""
        body: dict[str, Any] = {}
        for one in fields(self):
            *parents, last = one.metadata["key"].split(".")
            native = getattr(self, one.name)
            if native == ():
                continue
            inner = body
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[last] = one.metadata["kind"].write(native)
        return body

    @property
    def sort(self) -> tuple[SortBy, ...]:
        """What the documents of every segment are sorted by."""
        count = len(self.sort_field)
        orders, missing = self.sort_order or ("asc",) * count, self.sort_missing or ("_last",) * count
        modes = self.sort_mode or tuple("max" if order == "desc" else "min" for order in orders)
        return tuple(SortBy(name, order == "desc", where == "_first", mode == "max") for name, order, where, mode
                     in zip(self.sort_field, orders, missing, modes, strict=True))

    def _check_sort(self) -> None:
        count = len(self.sort_field)
        if len(set(self.sort_field)) < count:
            raise SettingsError("a field to sort by is named twice", path="index.sort.field",
                                found=list(self.sort_field))
        for name in ("order", "missing", "mode"):
            given = getattr(self, f"sort_{name}")
            if given and len(given) != count:
                raise SettingsError("the settings of the index sort do not go together", path=f"index.sort.{name}",
                                    found=f"{len(given)} of them", expected=f"{count}, as of index.sort.field, or none",
                                    fix="give one for each field")

    def _check_watermarks(self) -> None:
        marks = (self.disk_watermark_low, self.disk_watermark_high, self.disk_watermark_flood_stage)
        percents = [mark.percent for mark in marks if mark.percent is not None]
        frees = [mark.free for mark in marks if mark.free is not None]
        if (percents and frees) or percents != sorted(percents) or frees != sorted(frees, reverse=True):
            raise SettingsError(
                "the watermarks do not go together", path="cluster.routing.allocation.disk.watermark",
                found=" ".join(Mark().write(mark) for mark in marks),
                expected="low, high, flood_stage in rising order, all shares in use or all free space",
                fix="set the three of them",
            )


_BY_KEY: Final = {one.metadata["key"]: one for one in fields(Settings)}
_MAX_DEPTH: Final = 20
_MAX_SHOWN: Final = 200
# First parts, after "index.", of groups of settings that OpenSearch has and this version does not.
_LATER: Final = frozenset(
    {
        "analysis", "analyze", "auto_expand_replicas", "blocks", "creation_date", "default_pipeline",
        "final_pipeline", "gc_deletes", "hidden", "highlight", "knn", "lifecycle", "mapping", "mappings",
        "max_docvalue_fields_search", "max_inner_result_window", "max_ngram_diff", "max_refresh_listeners",
        "max_regex_length", "max_rescore_window", "max_script_fields", "max_shingle_diff", "max_terms_count",
        "merge", "plugins", "provided_name", "query", "replication", "routing", "search", "similarity",
        "soft_deletes", "store", "uuid", "version",
    }
)


def _read(body: Any) -> dict[str, Any]:
    """OpenSearch's form, bare or under ``"settings"``, to native values by attribute name."""
    if isinstance(body, Mapping) and list(body) == ["settings"]:
        body = body["settings"]
    if not isinstance(body, Mapping):
        raise SettingsError("settings are not an object", found=body, expected="a dict or Settings")
    natives: dict[str, Any] = {}
    for written, value in _flatten(body, "", 0):
        key = written if written in _BY_KEY else f"index.{written}"
        shown = written[:_MAX_SHOWN].encode("utf-8", "backslashreplace").decode()
        one = _BY_KEY.get(key)
        if one is None:
            if written.removeprefix("index.").partition(".")[0] in _LATER:
                raise UnsupportedError("this setting is not supported by this version", path=shown,
                                       fix="leave it out; supported: " + ", ".join(_BY_KEY))
            raise SettingsError("unknown setting", path=shown, fix=nearest(shown, set(_BY_KEY)))
        if one.name in natives:
            raise SettingsError("the setting is given twice", path=key, fix="keep one of its forms")
        kind: Kind = one.metadata["kind"]
        native = one.default if value is None else kind.read(value)
        if native is None:
            raise SettingsError("the value does not fit", path=key, found=value, expected=kind.expected)
        natives[one.name] = native
    return natives


def _flatten(body: Mapping[Any, Any], prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > _MAX_DEPTH:
        raise SettingsError(f"settings are nested more than {_MAX_DEPTH} deep", path=prefix[:_MAX_SHOWN])
    for name, value in body.items():
        if not isinstance(name, str):
            raise SettingsError("a key is not a string", path=prefix or None, found=name, expected="a string")
        key = f"{prefix}.{name}" if prefix else name
        if isinstance(value, Mapping):
            yield from _flatten(value, key, depth + 1)
        else:
            yield key, value


# Tiers ------------------------------------------------------------------------------------------------------

_TIER_NAMES: Final = ("hot", "warm", "cold")


@dataclass(frozen=True, slots=True)
class Tiers:
    """Where segments may live besides the index's own path, which is the hot tier.

    ``warm`` is a local directory (it is mapped into memory); ``cold`` any fsspec URL, opened with
    ``storage_options``, which may hold secrets and so are neither in the repr nor stored. What moves by itself:
    ``after``: segments go to a tier at this age, ``{"warm": "7d", "cold": "90d"}``; ``idle``: when nobody has searched
    them for so long; ``larger``: when they have so many bytes; ``budgets``: the oldest go on from a tier that holds
    more, ``{"hot": "100gb"}``. Sizes are kept as bytes, times as seconds. ``memory`` bounds what of the cold tier is in
    memory in this process, ``cache`` what of it is on the local disk. SettingsError for anything else.
    """

    warm: str | None = None
    cold: str | None = None
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)
    budgets: Mapping[str, int] = field(default_factory=dict, hash=False)
    after: Mapping[str, float] = field(default_factory=dict, hash=False)
    idle: Mapping[str, float] = field(default_factory=dict, hash=False)
    larger: Mapping[str, int] = field(default_factory=dict, hash=False)
    memory: int = 512 << 20
    cache: int = 10 << 30

    def __post_init__(self) -> None:
        for name in ("warm", "cold"):
            object.__setattr__(self, name, _place(getattr(self, name), f"tiers.{name}"))
        if self.warm is not None and "://" in self.warm and not self.warm.startswith("file://"):
            raise SettingsError("the warm tier is not local", path="tiers.warm", found=self.warm,
                                expected="a directory of this machine", fix="use it as the cold tier")
        if self.warm is not None and self.warm == self.cold:
            raise SettingsError("two tiers have the same place", path="tiers.cold", found=self.cold,
                                fix="give each its own")
        options = self.storage_options
        if not isinstance(options, Mapping) or not all(isinstance(key, str) for key in options):
            raise SettingsError("storage options are not an object", path="tiers.storage_options",
                                expected="a dict whose keys are strings")
        object.__setattr__(self, "storage_options", dict(options))
        if self.cold is not None and "@" in self.cold.partition("://")[2].partition("/")[0]:
            raise SettingsError("credentials do not belong into a URL", path="tiers.cold",
                                expected="storage_options, or the environment",
                                fix="pass them there: the URL is stored with the index")
        object.__setattr__(self, "budgets", self._sizes("budgets", _TIER_NAMES))
        object.__setattr__(self, "larger", self._sizes("larger", _TIER_NAMES[1:]))
        for name in ("after", "idle"):
            object.__setattr__(self, name, self._times(name))
        for name in ("memory", "cache"):
            value = getattr(self, name)
            size = value if _is_int(value) else Bytes().read(value)
            if not Bytes().holds(size):
                raise SettingsError("not a size", path=f"tiers.{name}", found=value, expected=Bytes.expected)
            object.__setattr__(self, name, size)

    @property
    def names(self) -> tuple[str, ...]:
        """The tiers that there are, from hot to cold."""
        return tuple(name for name in _TIER_NAMES if name == "hot" or getattr(self, name) is not None)

    def to_dict(self) -> dict[str, Any]:
        """What is stored with an index: everything but the storage options."""
        return {name: dict(value) if isinstance(value, Mapping) else value for one in fields(self)
                if (name := one.name) != "storage_options" and (value := getattr(self, name)) is not None}

    def _times(self, kind: str) -> dict[str, float]:
        given: Any = getattr(self, kind)
        if not isinstance(given, Mapping):
            raise SettingsError(f"{kind} is not an object", path=f"tiers.{kind}", found=given,
                                expected='a dict like {"cold": "90d"}')
        times = {}
        for name, value in given.items():
            self._known(name, kind, _TIER_NAMES[1:])
            seconds = value if isinstance(value, float) else Time().read(value)
            if not Time().holds(seconds):
                raise SettingsError("the time does not fit", path=f"tiers.{kind}.{name}", found=value,
                                    expected=Time().expected)
            times[name] = seconds
        return times

    def _known(self, name: Any, kind: str, names: tuple[str, ...]) -> None:
        if name not in names:
            raise SettingsError("unknown tier", path=f"tiers.{kind}", found=name, fix="use one of " + ", ".join(names))
        if name not in self.names:
            raise SettingsError(f"{kind} of a tier that has no place", path=f"tiers.{kind}.{name}",
                                fix=f"give {name}= as well")

    def _sizes(self, kind: str, names: tuple[str, ...]) -> dict[str, int]:
        given: Any = getattr(self, kind)
        if not isinstance(given, Mapping):
            raise SettingsError(f"{kind} is not an object", path=f"tiers.{kind}", found=given,
                                expected='a dict like {"hot": "100gb"}')
        budgets = {}
        for name, value in given.items():
            self._known(name, kind, names)
            size = value if _is_int(value) else Bytes().read(value)
            if not Bytes().holds(size):
                raise SettingsError("the size does not fit", path=f"tiers.{kind}.{name}", found=value,
                                    expected=f"{Bytes.expected}, or a number of bytes")
            budgets[name] = size
        return budgets


def _place(value: Any, path: str) -> str | None:
    if value is None:
        return None
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or not text.strip() or not text.isprintable():
        raise SettingsError("this is not a place", path=path, found=value,
                            expected="a directory or an fsspec URL, like s3://bucket/prefix")
    return text
