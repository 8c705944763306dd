"""Settings and tiers: forms, defaults, round trips, and errors that name the remedy."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quidditch_core.config import (
    Durability,
    Settings,
    Tiers,
    Watermark,
    format_bytes,
    parse_bytes,
    parse_time,
)
from quidditch_core.errors import QuidditchError, SettingsError, UnsupportedError

WATERMARK = "cluster.routing.allocation.disk.watermark"

times = st.integers(1, 366 * 86_400_000).map(lambda ms: ms / 1_000)
sizes = st.integers(1, 2**63 - 1)
percents = st.integers(0, 100_000_000).map(lambda n: Watermark(percent=n / 1_000_000))
frees = st.integers(0, 2**63 - 1).map(lambda n: Watermark(free=n))
watermarks = st.one_of(
    st.tuples(percents, percents, percents).map(lambda m: sorted(m, key=lambda w: w.percent)),
    st.tuples(frees, frees, frees).map(lambda m: sorted(m, key=lambda w: -w.free)),
)


@st.composite
def settings(draw: st.DrawFn) -> Settings:
    low, high, flood = draw(watermarks)
    return Settings(
        refresh_interval=draw(times | st.sampled_from([-1.0, 0.0])),
        codec=draw(st.sampled_from(["default", "diagon_best_compression"])),
        number_of_shards=draw(st.integers(1, 1024)),
        number_of_replicas=draw(st.integers(0, 1024)),
        translog_durability=draw(st.sampled_from(Durability)),
        translog_sync_interval=draw(times.filter(lambda t: t >= 0.1)),
        translog_flush_threshold_size=draw(sizes),
        max_result_window=draw(st.integers(1, 2**31 - 1)),
        disk_watermark_low=low, disk_watermark_high=high, disk_watermark_flood_stage=flood,
        index_buffer_size=draw(sizes),
        search_slices=draw(st.integers(1, 64)), write_threads=draw(st.integers(0, 64)),
    )


def test_defaults_are_opensearchs() -> None:
    assert Settings().to_dict() == {
        "index": {
            "refresh_interval": "1s", "codec": "default", "number_of_shards": "1", "number_of_replicas": "0",
            "translog": {"durability": "request", "sync_interval": "5s", "flush_threshold_size": "512mb"},
            "max_result_window": "10000", "search": {"concurrent": {"max_slice_count": "1"}},
        },
        "cluster": {"routing": {"allocation": {"disk": {"watermark": {
            "low": "85%", "high": "90%", "flood_stage": "95%"}}}}},
        "indices": {"memory": {"index_buffer_size": "256mb"}}, "thread_pool": {"write": {"size": "0"}},
    }


@given(settings())
def test_dict_form_round_trips(given: Settings) -> None:
    assert Settings.from_dict(given.to_dict()) == given
    assert Settings.from_dict(json.loads(json.dumps(given.to_dict()))) == given


@pytest.mark.parametrize("body", [
    {"index.translog.durability": "async", "index.refresh_interval": "30s"},
    {"index": {"translog": {"durability": "async"}, "refresh_interval": "30s"}},
    {"index": {"translog.durability": "async"}, "index.refresh_interval": "30s"},
    {"translog.durability": "ASYNC", "refresh_interval": "30s"},
    {"translog": {"durability": "async"}, "index.refresh_interval": "30000ms"},
    {"settings": {"index": {"translog.durability": "async", "refresh_interval": "30s"}}},
])
def test_forms(body: dict[str, Any]) -> None:
    read = Settings.from_dict(body)
    assert read == Settings(translog_durability=Durability.ASYNC, refresh_interval=30.0)


@pytest.mark.parametrize(("text", "seconds"), [
    ("1s", 1.0), ("500ms", 0.5), ("2m", 120.0), ("1h", 3600.0), ("1d", 86400.0), ("0", 0.0), ("0s", 0.0),
    ("5", None), ("-1", None), ("1.5s", None), ("s", None), ("", None), ("1y", None), ("1S", 1.0),
    ("\u0663s", None),
])
def test_times(text: str, seconds: float | None) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize(("text", "size"), [
    ("512mb", 2**29), ("1b", 1), ("1k", 1024), ("1KB", 1024), ("2g", 2**31), ("1tb", 2**40), ("1pb", 2**50),
    ("0", 0), ("10", None), ("-1", None), ("1.5gb", None), ("10%", None), ("", None), ("1eb", None),
])
def test_sizes(text: str, size: int | None) -> None:
    assert parse_bytes(text) == size


@given(st.integers(0, 2**63 - 1))
def test_sizes_round_trip(size: int) -> None:
    assert parse_bytes(format_bytes(size)) == size


def test_off_and_zero_need_no_unit() -> None:
    assert Settings.from_dict({"refresh_interval": -1}).refresh_interval == -1
    assert Settings.from_dict({"refresh_interval": "-1"}).refresh_interval == -1
    assert Settings.from_dict({"refresh_interval": 0}).refresh_interval == 0
    assert Settings(refresh_interval=-1).to_dict()["index"]["refresh_interval"] == "-1"


def test_unknown_key_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match=r"index\.refresh_intervall: unknown setting; did you mean "
                                            r"'index\.refresh_interval'\?"):
        Settings.from_dict({"index": {"refresh_intervall": "1s"}})
    with pytest.raises(SettingsError, match=r"did you mean 'index\.number_of_shards'"):
        Settings.from_dict({"number_of_shard": 1})


@pytest.mark.parametrize(("body", "says"), [
    ({"refresh_interval": 5}, "found 5; expected a time with its unit"),
    ({"refresh_interval": "5"}, "found '5'; expected a time with its unit"),
    ({"refresh_interval": True}, "found True"),
    ({"refresh_interval": -2}, "found -2"),
    ({"translog.sync_interval": "50ms"}, "at least 100ms"),
    ({"translog.sync_interval": -1}, "a unit is required"),
    ({"translog.flush_threshold_size": 1024}, "a size with its unit"),
    ({"translog.flush_threshold_size": "0b"}, "a size with its unit"),
    ({"translog.durability": "sometimes"}, '"request" or "async"'),
    ({"codec": "best_compression"}, '"default" or "diagon_best_compression"'),
    ({"codec": ["default"]}, '"default" or "diagon_best_compression"'),
    ({"number_of_shards": 0}, "an integer from 1 to 1024"),
    ({"number_of_shards": "many"}, "an integer from 1 to 1024"),
    ({"number_of_shards": 1.0}, "an integer from 1 to 1024"),
    ({"max_result_window": True}, "an integer from 1"),
    ({"indices.memory.index_buffer_size": "10%"}, "a size with its unit"),
    ({f"{WATERMARK}.low": "185%"}, "a share in use"),
    ({f"{WATERMARK}.low": 85}, "a share in use"),
    ({f"{WATERMARK}.low": "91%"}, "in rising order"),
    ({f"{WATERMARK}.low": "10gb"}, "all shares in use or all free space"),
    ({"refresh_interval": "1s", "index.refresh_interval": "1s"}, "given twice"),
    ({"index": {1: 2}}, "a key is not a string"),
    ({"index": None}, "unknown setting"),
    ([], "settings are not an object"),
    (None, "settings are not an object"),
])
def test_bad_values_say_what_was_expected(body: Any, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_dict(body)
    assert says in str(caught.value)


@pytest.mark.parametrize("key", ["index.analysis.analyzer.mine.type", "mapping.depth.limit"])
def test_settings_of_later_versions(key: str) -> None:
    with pytest.raises(UnsupportedError, match="not supported by this version"):
        Settings.from_dict({key: "x"})


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.dictionaries(st.sampled_from(["index", "translog", "refresh_interval", "codec", "", "."])
                                  | st.text(max_size=5), inner, max_size=4) | st.lists(inner, max_size=3),
))
def test_any_body_is_read_or_refused(body: Any) -> None:
    with suppress(QuidditchError):
        Settings.from_dict(body)


def test_nesting_is_bounded() -> None:
    body: dict[str, Any] = {}
    for _ in range(5_000):
        body = {"index": body, "a": 1}
    with pytest.raises(SettingsError):
        Settings.from_dict(body)
    loop: dict[str, Any] = {}
    loop["index"] = loop
    with pytest.raises(SettingsError, match="deep"):
        Settings.from_dict(loop)


def test_updates() -> None:
    old = Settings.from_dict({"refresh_interval": "5s", "number_of_shards": 2})
    new = old.updated({"index": {"refresh_interval": None, "codec": "diagon_best_compression"}})
    assert (new.refresh_interval, new.codec, new.number_of_shards) == (1.0, "diagon_best_compression", 2)
    assert old.refresh_interval == 5.0
    assert old.updated({"number_of_shards": "2"}) == old
    with pytest.raises(SettingsError, match=r"index\.number_of_shards: .*fixed.*found 3; expected 2"):
        old.updated({"index.number_of_shards": 3})


def test_settings_are_checked_and_frozen() -> None:
    with pytest.raises(SettingsError, match=r"index\.refresh_interval"):
        Settings(refresh_interval=float("nan"))
    with pytest.raises(SettingsError, match=r"watermark\.low"):
        Settings(disk_watermark_low=Watermark(percent=1.0, free=1))
    with pytest.raises(SettingsError, match=r"index\.codec"):
        Settings(codec="zstd")
    with pytest.raises(SettingsError, match=r"index\.translog\.durability"):
        Settings(translog_durability="async")  # type: ignore[arg-type]
    with pytest.raises(FrozenInstanceError):
        Settings().codec = "default"  # type: ignore[misc]


def test_watermarks() -> None:
    assert Watermark(percent=90.0).reached(total=100, free=10)
    assert not Watermark(percent=90.0).reached(total=100, free=11)
    assert Watermark(free=10).reached(total=100, free=10)
    assert not Watermark(free=10).reached(total=100, free=11)
    read = Settings.from_dict({f"{WATERMARK}.low": "0.07", f"{WATERMARK}.high": 0.5})
    assert (read.disk_watermark_low.percent, read.disk_watermark_high.percent) == (7.0, 50.0)
    free = {"low": "10gb", "high": "5gb", "flood_stage": "1gb"}
    assert Settings.from_dict({WATERMARK: free}).disk_watermark_high == Watermark(free=5 * 2**30)


def test_tiers(tmp_path: Path) -> None:
    tiers = Tiers(warm=tmp_path, cold="s3://books/index", storage_options={"key": "id", "secret": "hush"},
                  budgets={"hot": "100gb", "cold": 5})  # type: ignore[arg-type, dict-item]
    assert tiers.warm == str(tmp_path)
    assert tiers.budgets == {"hot": 100 * 2**30, "cold": 5}
    assert "hush" not in repr(tiers)
    assert Tiers() == Tiers(None, None)


@pytest.mark.parametrize(("arguments", "says"), [
    ({"warm": ""}, "tiers.warm: this is not a place"),
    ({"warm": 1}, "tiers.warm: this is not a place"),
    ({"cold": "s3://a\0b"}, "tiers.cold: this is not a place"),
    ({"warm": "s3://b/k"}, "a directory of this machine"),
    ({"warm": "/a", "cold": "/a"}, "the same place"),
    ({"storage_options": {1: 2}}, "keys are strings"),
    ({"storage_options": "key=hush"}, "keys are strings"),
    ({"budgets": {"icy": "1gb"}}, "use one of hot, warm, cold"),
    ({"budgets": {"warm": "1gb"}}, "give warm= as well"),
    ({"budgets": {"hot": "1"}}, "a size with its unit"),
    ({"budgets": {"hot": 0}}, "a size with its unit"),
    ({"budgets": "1gb"}, "a dict like"),
])
def test_bad_tiers(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Tiers(**arguments)
    assert says in str(caught.value)
    assert "hush" not in str(caught.value)
