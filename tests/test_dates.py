"""Date formats and date math, against Python's datetime where that reaches."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quidditch_core import dates
from quidditch_core.dates import BadFormat, date_format, evaluate

DEFAULT = date_format(dates.DEFAULT_FORMAT)
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
INT64 = st.integers(-(2**63), 2**63 - 1)


def ms(*parts: int) -> int:
    """Milliseconds of year, month, day, hour, ... in UTC; a seventh part is milliseconds."""
    return (dt.datetime(*parts[:6], tzinfo=dt.UTC) - EPOCH) // dt.timedelta(milliseconds=1) + sum(parts[6:])


@given(st.dates())
def test_the_calendar_is_pythons(day: dt.date) -> None:
    number = (day - dt.date(1970, 1, 1)).days
    assert dates.days_from_civil(day.year, day.month, day.day) == number
    assert dates.civil_from_days(number) == (day.year, day.month, day.day)


@given(st.integers(-(10**12), 10**12))
def test_the_calendar_has_no_ends(days: int) -> None:
    assert dates.days_from_civil(*dates.civil_from_days(days)) == days


@given(st.datetimes(timezones=st.just(dt.UTC) | st.timezones()))
def test_datetimes_are_instants(value: dt.datetime) -> None:
    instant = dates.from_datetime(value)
    assert instant == (value - EPOCH) // dt.timedelta(milliseconds=1)
    assert DEFAULT.read(dates.iso(instant)) == instant


def test_naive_datetimes_and_dates_are_utc() -> None:
    assert dates.from_datetime(dt.datetime(2024, 1, 2, 3)) == ms(2024, 1, 2, 3)
    assert dates.from_datetime(dt.date(2024, 1, 2)) == ms(2024, 1, 2)
    assert dates.from_datetime(dt.date(2024, 1, 2), round_up=True) == ms(2024, 1, 2, 23, 59, 59, 999)


@given(st.datetimes(), st.sampled_from(["%Y-%m-%dT%H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S"]),
       st.integers(-18 * 60, 18 * 60), st.booleans())
def test_iso_with_offsets(value: dt.datetime, pattern: str, minutes: int, colon: bool) -> None:
    sign, size = "-" if minutes < 0 else "+", abs(minutes)
    zone = f"{sign}{size // 60:02d}{':' if colon else ''}{size % 60:02d}"
    width = len("2024-01-01T00:00:00") + (len(".000000") if "%f" in pattern else 0)
    text = value.strftime(pattern).rjust(width, "0") + zone  # strftime does not pad years
    second = value.replace(microsecond=0, tzinfo=dt.UTC)
    expected = dates.from_datetime(second) - minutes * 60_000
    if "%f" in pattern:
        expected += value.microsecond // 1_000
    assert DEFAULT.read(text) == expected


@pytest.mark.parametrize(("text", "down", "up"), [
    ("2024", ms(2024, 1, 1), ms(2024, 1, 1, 23, 59, 59, 999)),
    ("2024-02", ms(2024, 2, 1), ms(2024, 2, 1, 23, 59, 59, 999)),
    ("2024-02-29", ms(2024, 2, 29), ms(2024, 2, 29, 23, 59, 59, 999)),
    ("2024-02-29T10", ms(2024, 2, 29, 10), ms(2024, 2, 29, 10, 59, 59, 999)),
    ("2024-02-29T10:20", ms(2024, 2, 29, 10, 20), ms(2024, 2, 29, 10, 20, 59, 999)),
    ("2024-02-29T10:20:30", ms(2024, 2, 29, 10, 20, 30), ms(2024, 2, 29, 10, 20, 30, 999)),
    ("2024-02-29T10:20:30Z", ms(2024, 2, 29, 10, 20, 30), ms(2024, 2, 29, 10, 20, 30, 999)),
    ("2024-02-29T10:20:30.5Z", ms(2024, 2, 29, 10, 20, 30, 500), ms(2024, 2, 29, 10, 20, 30, 500)),
    ("2024-02-29T10:20:30,123456789Z", ms(2024, 2, 29, 10, 20, 30, 123), ms(2024, 2, 29, 10, 20, 30, 123)),
    ("2024-02-29T10:20+01:30", ms(2024, 2, 29, 8, 50), ms(2024, 2, 29, 8, 50, 59, 999)),
    ("2024-02-29T00:20-0130", ms(2024, 2, 29, 1, 50), ms(2024, 2, 29, 1, 50, 59, 999)),
    ("2024-02-29T10+01", ms(2024, 2, 29, 9), ms(2024, 2, 29, 9, 59, 59, 999)),
    ("0000-02-29", -62162121600000, -62162121600000 + 86_399_999),
    ("1709202030500", ms(2024, 2, 29, 10, 20, 30, 500), ms(2024, 2, 29, 10, 20, 30, 500)),
    ("-1", -1, -1), ("12345", 12345, 12345), ("1.5", 1, 1), ("-1.5", -2, -2),
])
def test_default_format(text: str, down: int, up: int) -> None:
    assert DEFAULT.read(text) == down
    assert DEFAULT.read(text, round_up=True) == up


@pytest.mark.parametrize("text", [
    "", " ", "now", "2024-1-1", "2024-13-01", "2024-00-01", "2023-02-29", "2024-04-31", "2024-01-32",
    "2024-01-00", "2024-01-01T", "2024-01-01 10:00", "2024-01-01T24:00", "2024-01-01T10:60",
    "2024-01-01T10:20:60", "20240101T", "2024-01-01T10:20:30.", "2024-01-01T10:20:30.1234567890",
    "2024-01-01Z", "2024-01-01T10:20+19:00", "2024-01-01T10:20+01:60", "2024-W01-1", "2024-01-01\n",
    "2024-01-0\u0661", "\ud800", "99999999999999999999", "9223372036854775808", "1e3", "0x10", "+5", "--5",
    "10000-01-01", "2024-001",
])
def test_what_is_no_date(text: str) -> None:
    assert DEFAULT.read(text) is None
    assert DEFAULT.read(text, round_up=True) is None


@given(st.text(alphabet="0123456789-:.TZ+,W ", max_size=30) | st.text(max_size=12))
def test_any_text_is_an_instant_or_none(text: str) -> None:
    for round_up in (False, True):
        found = DEFAULT.read(text, round_up)
        assert found is None or -(2**63) <= found < 2**63
        evaluated = evaluate(text, DEFAULT, now_ms=0, round_up=round_up)
        assert found is None or evaluated == found


def test_epoch_second() -> None:
    form = date_format("epoch_second")
    assert form.read("-2") == -2_000
    assert form.read("1.5") == 1_500
    assert form.read("1", round_up=True) == 1_999
    assert form.print(1_999) == "1"
    assert form.read("9223372036854775807") is None


@pytest.mark.parametrize(("spec", "text", "instant"), [
    ("yyyy-MM-dd", "2024-02-29", ms(2024, 2, 29)),
    ("date", "2024-02-29", ms(2024, 2, 29)),
    ("basic_date", "20240229", ms(2024, 2, 29)),
    ("dd/MM/yyyy HH:mm:ss", "29/02/2024 10:20:30", ms(2024, 2, 29, 10, 20, 30)),
    ("yyyy-MM-dd'T'HH:mm:ss.SSS", "2024-02-29T10:20:30.045", ms(2024, 2, 29, 10, 20, 30, 45)),
    ("yyyy 'o''clock' HH", "2024 o'clock 10", ms(2024, 1, 1, 10)),
    ("d.M.yyyy", "9.2.2024", ms(2024, 2, 9)),
    ("HH:mm", "10:20", ms(1970, 1, 1, 10, 20)),
    ("strict_date_time", "2024-02-29T10:20:30.000Z", ms(2024, 2, 29, 10, 20, 30)),
    ("basic_date_time_no_millis", "20240229T102030Z", ms(2024, 2, 29, 10, 20, 30)),
    ("epoch_second||yyyy", "86400", 86_400_000),
])
def test_formats_read_and_print(spec: str, text: str, instant: int) -> None:
    form = date_format(spec)
    assert form.read(text) == instant
    assert form.print(instant) == text
    assert form.read(text + "x") is None


def test_alternatives_and_zones() -> None:
    form = date_format("yyyy/MM/dd HH:mm:ss Z||yyyy/MM/dd||epoch_millis")
    assert form.read("2024/02/29 10:20:30 +0130") == ms(2024, 2, 29, 8, 50, 30)
    assert form.read("2024/02/29") == ms(2024, 2, 29)
    assert form.read("2024/02/29", round_up=True) == ms(2024, 2, 29, 23, 59, 59, 999)
    assert form.read("5") == 5
    assert form.read("2024/02/30") is None
    assert form.read("2024/02/29 10:20:30 +1900") is None
    assert form.print(ms(2024, 2, 29)) == "2024/02/29 00:00:00 +0000"
    assert date_format("yyyy-MM-dd").read("2024-02-29", offset=3_600_000) == ms(2024, 2, 28, 23)


@pytest.mark.parametrize(("spec", "known"), [
    ("week_date", True), ("strict_ordinal_date_time", True), ("EEE, dd MMM yyyy", True), ("yy-MM-dd", True),
    ("yyyy[-MM]", True), ("date_optional_time", True),
    ("strict_date_optional_tim", False), ("", False), ("||", False), ("yyyy-MM-ddTHH:mm", False),
    ("yyyy-MM-dd yyyy", False), ("'only text'", False), ("yyyy'", False), ("yyyy\ud800b", False),
    ("y" * 2_000, False),
])
def test_bad_formats(spec: str, known: bool) -> None:
    with pytest.raises(BadFormat) as caught:
        date_format(spec)
    assert caught.value.known == known
    assert caught.value.fix


@given(st.text(max_size=20) | st.text(alphabet="yMdHmsSXZ'-:/ []|_", max_size=20))
def test_any_text_is_a_format_or_bad(spec: str) -> None:
    try:
        form = date_format(spec)
    except BadFormat:
        return
    form.read(form.print(0))


@given(INT64)
def test_every_instant_has_a_text(instant: int) -> None:
    text = DEFAULT.print(instant)
    if text[0] not in "+-":
        assert DEFAULT.read(text) == instant


NOW = ms(2024, 2, 29, 10, 20, 30, 456)  # a Thursday


@pytest.mark.parametrize(("text", "down", "up"), [
    ("now", NOW, NOW),
    ("now-1d", NOW - 86_400_000, NOW - 86_400_000),
    ("now+d", NOW + 86_400_000, NOW + 86_400_000),
    ("now-7d/d", ms(2024, 2, 22), ms(2024, 2, 22, 23, 59, 59, 999)),
    ("now/w", ms(2024, 2, 26), ms(2024, 3, 3, 23, 59, 59, 999)),
    ("now/M", ms(2024, 2, 1), ms(2024, 2, 29, 23, 59, 59, 999)),
    ("now/y", ms(2024, 1, 1), ms(2024, 12, 31, 23, 59, 59, 999)),
    ("now/h", ms(2024, 2, 29, 10), ms(2024, 2, 29, 10, 59, 59, 999)),
    ("now/m", ms(2024, 2, 29, 10, 20), ms(2024, 2, 29, 10, 20, 59, 999)),
    ("now/s", ms(2024, 2, 29, 10, 20, 30), ms(2024, 2, 29, 10, 20, 30, 999)),
    ("now-1y", ms(2023, 2, 28, 10, 20, 30, 456), ms(2023, 2, 28, 10, 20, 30, 456)),
    ("now+1M-1M", ms(2024, 2, 29, 10, 20, 30, 456), ms(2024, 2, 29, 10, 20, 30, 456)),
    ("2024-01-31||+1M/d", ms(2024, 2, 29), ms(2024, 2, 29, 23, 59, 59, 999)),
    ("2024-01-01||+1M/d", ms(2024, 2, 1), ms(2024, 2, 1, 23, 59, 59, 999)),
    ("2024-01-01||", ms(2024, 1, 1), ms(2024, 1, 1)),
    ("2024-01-01||-13M", ms(2022, 12, 1), ms(2022, 12, 1)),
    ("2024-03-31||+2w-36H", ms(2024, 4, 12, 12), ms(2024, 4, 12, 12)),
    ("2024-01-01", ms(2024, 1, 1), ms(2024, 1, 1, 23, 59, 59, 999)),
])
def test_date_math(text: str, down: int, up: int) -> None:
    assert evaluate(text, DEFAULT, now_ms=NOW) == down
    assert evaluate(text, DEFAULT, now_ms=NOW, round_up=True) == up


@pytest.mark.parametrize("text", [
    "now+", "now-1", "now/", "now/q", "now/2d", "nowx", "now 1d", "||+1d", "x||+1d", "2024-01-01||x",
    "now-1d ", "now+9999999999d", "now+999999999y", "now-1.5d",
])
def test_what_is_no_date_math(text: str) -> None:
    assert evaluate(text, DEFAULT, now_ms=NOW) is None


def test_rounding_on_another_wall_clock() -> None:
    hour = 3_600_000
    assert evaluate("now/d", DEFAULT, now_ms=ms(2024, 2, 29, 23), offset=2 * hour) == ms(2024, 2, 29, 22)
    assert evaluate("2024-01-01", DEFAULT, now_ms=0, offset=2 * hour) == ms(2023, 12, 31, 22)
    assert evaluate("2024-01-01T00:00Z", DEFAULT, now_ms=0, offset=2 * hour) == ms(2024, 1, 1)


@pytest.mark.parametrize(("text", "offset"), [
    ("Z", 0), ("UTC", 0), ("+01:30", 5_400_000), ("-0130", -5_400_000), ("+18", 64_800_000), ("+18:01", None),
    ("Europe/Paris", None), ("", None), ("01:00", None),
])
def test_offsets(text: str, offset: int | None) -> None:
    assert dates.parse_offset(text) == offset
