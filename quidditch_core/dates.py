"""Dates as text: OpenSearch's formats and date math. Pure functions from text to milliseconds and back.

An instant is an int: milliseconds since 1970-01-01T00:00Z, in the proleptic Gregorian calendar, without the
bounds of :mod:`datetime`. A ``DateFormat`` is one or more formats joined by ``||``; the first that fits reads
a text, the first of all prints. Nothing here raises for a text that does not fit: the answer is None. Only a
format that is itself wrong raises, ``BadFormat``.

Semantics: OpenSearch's JavaDateFormatter and JavaDateMathParser. ``round_up`` fills what a text leaves out
with the end of the period instead of its start (but for month and day, which are always 1).
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quidditch_core.errors import nearest

DEFAULT_FORMAT: Final = "strict_date_optional_time||epoch_millis"

_MAX_SPEC: Final = 1_000

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1

_SECOND: Final = 1_000
_MINUTE: Final = 60_000
_HOUR: Final = 3_600_000
_DAY: Final = 86_400_000
_UNIX_ORDINAL: Final = dt.date(1970, 1, 1).toordinal()
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

Reader = Callable[[str, bool, int], int | None]
"""(text, round_up, offset in ms of texts that name no zone) -> instant, or None if the text does not fit."""


class BadFormat(ValueError):
    """A date format that cannot be used; ``known`` if OpenSearch has it, ``fix`` says what to write."""

    def __init__(self, part: str, *, known: bool, fix: str) -> None:
        self.part, self.known, self.fix = part, known, fix
        super().__init__(f"{part!r} is not a date format; {fix}")


# Calendar ---------------------------------------------------------------------------------------------------


def days_from_civil(year: int, month: int, day: int) -> int:
    """Day number of a date, 0 = 1970-01-01 (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms")."""
    year = year - (month <= 2)
    era, of_era = year // 400, year % 400
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


def civil_from_days(days: int) -> tuple[int, int, int]:
    """(year, month, day) of a day number; the inverse of ``days_from_civil``."""
    era, of_era = divmod(days + 719_468, 146_097)
    years = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * years + years // 4 - years // 100)
    shifted = (5 * of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    return era * 400 + years + (month <= 2), month, of_year - (153 * shifted + 2) // 5 + 1


def _month_length(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


def _instant(year: int, month: int, day: int, hour: int, minute: int, second: int, ms: int) -> int | None:
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour <= 23 and minute <= 59 and second <= 59):
        return None
    if day > 28 and day > _month_length(year, month):
        return None
    return days_from_civil(year, month, day) * _DAY + hour * _HOUR + minute * _MINUTE + second * _SECOND + ms


def from_datetime(value: dt.date, round_up: bool = False) -> int:
    """The instant of a Python datetime (naive means UTC) or of a date's first (or last) millisecond."""
    if not isinstance(value, dt.datetime):
        return (value.toordinal() - _UNIX_ORDINAL) * _DAY + (_DAY - 1 if round_up else 0)
    since = (value if value.tzinfo is not None else value.replace(tzinfo=dt.UTC)) - _EPOCH
    return since.days * _DAY + since.seconds * _SECOND + since.microseconds // 1_000


def parse_offset(text: str) -> int | None:
    """Milliseconds east of UTC: ``Z``, ``UTC``, ``+hh``, ``+hhmm`` or ``+hh:mm``, to 18 hours as in Java."""
    if text in ("Z", "UTC", "GMT"):
        return 0
    match = re.fullmatch(r"([+-])([0-9]{2})(?::?([0-9]{2}))?", text)
    if match is None:
        return None
    hours, minutes = int(match[2]), int(match[3] or 0)
    if minutes > 59 or hours * 60 + minutes > 18 * 60:
        return None
    size = hours * _HOUR + minutes * _MINUTE
    return -size if match[1] == "-" else size


# Readers and printers ---------------------------------------------------------------------------------------

_ISO = re.compile(
    r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2})(?:T([0-9]{2})"
    r"(?::([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?)?(Z|[+-][0-9]{2}(?::?[0-9]{2})?)?)?)?)?"
)


def _read_iso(text: str, round_up: bool, offset: int) -> int | None:
    if len(text) == 10 and not round_up and text[4] == "-" == text[7]:
        # The common case at C speed: with dashes there, fromisoformat accepts nothing but yyyy-MM-dd.
        try:
            return (dt.date.fromisoformat(text).toordinal() - _UNIX_ORDINAL) * _DAY - offset
        except ValueError:
            pass  # not a date, or one of year 0, which datetime does not have
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    if zone is not None and zone != "Z":
        named = parse_offset(zone)
        if named is None:
            return None
        offset = named
    elif zone is not None:
        offset = 0
    local = _instant(
        int(year), int(month or 1), int(day or 1), int(hour or (23 if round_up else 0)),
        int(minute or (59 if round_up else 0)), int(second or (59 if round_up else 0)),
        int(fraction[:3].ljust(3, "0")) if fraction else 999 if round_up else 0,
    )
    return None if local is None else local - offset


def _read_epoch(unit: int) -> Reader:
    pattern = re.compile(r"(-?[0-9]{1,19})(?:\.([0-9]{1,9}))?")

    def read(text: str, round_up: bool, offset: int) -> int | None:
        match = pattern.fullmatch(text)
        if match is None:
            return None
        whole, fraction = match.groups()
        if fraction is None:
            return int(whole) * unit + (unit - 1 if round_up else 0)
        scaled: int = int(whole + fraction) * unit // 10 ** len(fraction)
        return scaled

    return read


def _fields(ms: int) -> dict[str, Any]:
    days, rest = divmod(ms, _DAY)
    year, month, day = civil_from_days(days)
    return {
        "year": year, "month": month, "day": day, "hour": rest // _HOUR, "minute": rest // _MINUTE % 60,
        "second": rest // _SECOND % 60, "ms": rest % 1_000,
    }


def iso(ms: int) -> str:
    """``2024-01-31T10:20:30.000Z``; years beyond four digits carry a sign, as in Java."""
    parts = _fields(ms)
    year = parts["year"]
    head = f"{year:04d}" if 0 <= year <= 9_999 else f"{year:+05d}"
    return head + "-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}.{ms:03d}Z".format(**parts)


class _Letter(NamedTuple):
    """What one run of a pattern letter stands for: a field, how it is read and how it is printed."""

    field: str
    read: str
    print: str


_LETTERS: Final = {
    "yyyy": _Letter("year", "[0-9]{4}", "{year:04d}"),
    "uuuu": _Letter("year", "[0-9]{4}", "{year:04d}"),
    "MM": _Letter("month", "[0-9]{2}", "{month:02d}"),
    "M": _Letter("month", "[0-9]{1,2}", "{month}"),
    "dd": _Letter("day", "[0-9]{2}", "{day:02d}"),
    "d": _Letter("day", "[0-9]{1,2}", "{day}"),
    "HH": _Letter("hour", "[0-9]{2}", "{hour:02d}"),
    "H": _Letter("hour", "[0-9]{1,2}", "{hour}"),
    "mm": _Letter("minute", "[0-9]{2}", "{minute:02d}"),
    "m": _Letter("minute", "[0-9]{1,2}", "{minute}"),
    "ss": _Letter("second", "[0-9]{2}", "{second:02d}"),
    "s": _Letter("second", "[0-9]{1,2}", "{second}"),
    "SSS": _Letter("fraction", "[0-9]{3}", "{ms:03d}"),
    "X": _Letter("zone", "Z|[+-][0-9]{2}(?:[0-9]{2})?", "Z"),
    "XX": _Letter("zone", "Z|[+-][0-9]{4}", "Z"),
    "XXX": _Letter("zone", "Z|[+-][0-9]{2}:[0-9]{2}", "Z"),
    "Z": _Letter("zone", "[+-][0-9]{4}", "+0000"),
}
_JAVA_LETTERS: Final = frozenset("GuyDMLdQqYwWEecFaBhKkHmsSAnNVvzOXxZp")

_NAMED: Final = {
    "date": "yyyy-MM-dd",
    "strict_date": "yyyy-MM-dd",
    "basic_date": "yyyyMMdd",
    "basic_date_time": "yyyyMMdd'T'HHmmss.SSSX",
    "basic_date_time_no_millis": "yyyyMMdd'T'HHmmssX",
    "strict_date_hour_minute_second": "yyyy-MM-dd'T'HH:mm:ss",
    "strict_date_hour_minute_second_millis": "yyyy-MM-dd'T'HH:mm:ss.SSS",
    "strict_date_time": "yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
    "strict_date_time_no_millis": "yyyy-MM-dd'T'HH:mm:ssXXX",
    "strict_year": "yyyy",
    "strict_year_month": "yyyy-MM",
    "strict_year_month_day": "yyyy-MM-dd",
}
_BUILT_IN: Final = ("strict_date_optional_time", "epoch_millis", "epoch_second")
_NAME_WORDS: Final = frozenset(
    {
        "strict", "basic", "date", "time", "t", "optional", "no", "millis", "fraction", "nanos", "ordinal",
        "hour", "minute", "second", "week", "weekyear", "year", "month", "day", "micros", "rfc3339",
        "lenient", "iso8601",
    }
)
_TOKEN = re.compile(r"'((?:[^']|'')*)'|([A-Za-z])\2*|[^A-Za-z']")


def _pattern(spec: str) -> tuple[Reader, Callable[[int], str]]:
    """Compile a Java pattern of the letters above, literal punctuation and quoted text."""
    expression, template, seen, at = "", "", set(), 0
    while at < len(spec):
        token = _TOKEN.match(spec, at)
        if token is None or token[0] in ("[", "]", "{", "}", "#"):
            raise BadFormat(spec, known=token is not None, fix=f"{spec[at]!r} cannot stand in a pattern here")
        at = token.end()
        if token[2] is None:
            literal = token[0] if token[1] is None else token[1].replace("''", "'") or "'"
            expression += re.escape(literal)
            template += literal.replace("{", "{{").replace("}", "}}")
            continue
        letter = _LETTERS.get(token[0])
        if letter is None:
            known = token[2] in _JAVA_LETTERS
            raise BadFormat(
                spec, known=known,
                fix=f"{token[0]!r} is none of {' '.join(_LETTERS)}; put literal text in single quotes",
            )
        if letter.field in seen:
            raise BadFormat(spec, known=False, fix=f"it names the {letter.field} twice")
        seen.add(letter.field)
        expression += f"(?P<{letter.field}>{letter.read})"
        template += letter.print
    if not seen:
        raise BadFormat(spec, known=False, fix="it names no part of a date")
    match = re.compile(expression).fullmatch

    def read(text: str, round_up: bool, offset: int) -> int | None:
        found = match(text)
        if found is None:
            return None
        parts = found.groupdict()
        late = (23, 59, 59, 999) if round_up else (0, 0, 0, 0)
        if "zone" in parts:
            named = parse_offset(parts["zone"])
            if named is None:
                return None
            offset = named
        local = _instant(
            int(parts.get("year", 1970)), int(parts.get("month", 1)), int(parts.get("day", 1)),
            int(parts.get("hour", late[0])), int(parts.get("minute", late[1])),
            int(parts.get("second", late[2])), int(parts.get("fraction", late[3])),
        )
        return None if local is None else local - offset

    return read, lambda ms: template.format(**_fields(ms))


def _compile(part: str) -> tuple[Reader, Callable[[int], str]]:
    if part == "strict_date_optional_time":
        return _read_iso, iso
    if part == "epoch_millis":
        return _read_epoch(1), str
    if part == "epoch_second":
        return _read_epoch(1_000), lambda ms: str(ms // 1_000)
    if part in _NAMED:
        return _pattern(_NAMED[part])
    if re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", part) and ("_" in part or part in _NAME_WORDS):
        known = all(word in _NAME_WORDS for word in part.split("_"))
        raise BadFormat(part, known=known, fix=nearest(part, {*_BUILT_IN, *_NAMED}))
    return _pattern(part)


_ISO_FORMS: Final = {
    len(form): form for form in ("0000-00-00", "0000-00-00T00:00:00Z", "0000-00-00T00:00:00.000Z")
}


def _read_grid(grid: NDArray[np.uint8], form: str) -> NDArray[np.int64] | None:
    """The instants of texts, uint8 [texts, characters], with digits and signs where ``form`` has them."""
    wanted = np.frombuffer(form.encode(), np.uint8)
    digit = wanted == ord("0")
    values = grid[:, digit].astype(np.int64) - ord("0")
    if (grid[:, ~digit] != wanted[~digit]).any() or (values < 0).any() or (values > 9).any():
        return None
    pairs = 10 * values[:, 0:14:2] + values[:, 1:14:2]
    rest = pairs[:, 4:] if pairs.shape[1] > 4 else np.zeros((grid.shape[0], 3), np.int64)
    year, month, day = 100 * pairs[:, 0] + pairs[:, 1], pairs[:, 2], pairs[:, 3]
    hour, minute, second = rest.T
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    longest = _MONTHS[np.clip(month, 0, 12)] + (leap & (month == 2))
    if (month < 1).any() or (month > 12).any() or (day < 1).any() or (day > longest).any() or (
            hour > 23).any() or (minute > 59).any() or (second > 59).any():
        return None
    fraction = values[:, 14:] @ np.array([100, 10, 1]) if values.shape[1] > 14 else 0
    civil: Any = days_from_civil  # which takes arrays as well
    days: NDArray[np.int64] = civil(year, month, day)
    return days * _DAY + hour * _HOUR + minute * _MINUTE + second * _SECOND + fraction


_MONTHS: Final = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])


class DateFormat:
    """A compiled format; get one from ``date_format``, which caches them."""

    __slots__ = ("_print", "_readers", "spec")

    def __init__(self, spec: str) -> None:
        if len(spec) > _MAX_SPEC:
            raise BadFormat(spec[:40] + "...", known=False, fix=f"it is longer than {_MAX_SPEC} characters")
        parts = [_compile(part.strip()) for part in spec.split("||")]
        self.spec: Final = spec
        self._readers: Final = tuple(reader for reader, _ in parts)
        self._print: Final = parts[0][1]

    def read(self, text: str, round_up: bool = False, offset: int = 0) -> int | None:
        """The instant of a text, or None; ``offset`` is the zone, in ms, of texts that name none."""
        for reader in self._readers:
            found = reader(text, round_up, offset)
            if found is not None and INT64_MIN <= found <= INT64_MAX:
                return found
        return None

    def read_many(self, texts: list[str]) -> NDArray[np.int64] | None:
        """The instants of whole ISO texts in UTC that are all of one form; None if they are anything else."""
        if self._readers[0] is not _read_iso:
            return None
        size = len(texts[0])
        if size not in _ISO_FORMS or len(set(map(len, texts))) > 1 or not (text := "".join(texts)).isascii():
            return None
        return _read_grid(np.frombuffer(text.encode(), np.uint8).reshape(-1, size), _ISO_FORMS[size])

    def print(self, ms: int) -> str:
        """An instant in the first of the formats, in UTC."""
        return self._print(ms)


@lru_cache(maxsize=256)
def date_format(spec: str) -> DateFormat:
    """The compiled format, or ``BadFormat``."""
    return DateFormat(spec)


# Date math --------------------------------------------------------------------------------------------------

_MATH = re.compile(r"([+-])([0-9]{0,9})([yMwdhHms])|/([yMwdhHms])")
_FIXED: Final = {"w": 7 * _DAY, "d": _DAY, "h": _HOUR, "H": _HOUR, "m": _MINUTE, "s": _SECOND}


def evaluate(
    text: str, form: DateFormat, *, now_ms: int, round_up: bool = False, offset: int = 0
) -> int | None:
    """A date or date math: ``now-7d/d``, ``2024-01-01||+1M/d``; None where it is neither.

    ``/unit`` rounds down to the start of the unit (weeks start on Monday), with ``round_up`` to its last
    millisecond. ``offset`` shifts the wall clock on which rounding happens.
    """
    if text.startswith("now"):
        base: int | None = now_ms
        math = text[3:]
    elif "||" in text:
        head, _, math = text.partition("||")
        base = form.read(head, False, offset)
    else:
        return form.read(text, round_up, offset)
    if base is None:
        return None
    local, at = base + offset, 0
    while at < len(math):
        step = _MATH.match(math, at)
        if step is None:
            return None
        at = step.end()
        sign, count, unit, rounding = step.groups()
        if rounding is None:
            local = _add(local, int(count or 1) * (1 if sign == "+" else -1), unit)
        else:
            local = _floor(local, rounding)
            if round_up:
                local = _add(local, 1, rounding) - 1
    instant = local - offset
    return instant if INT64_MIN <= instant <= INT64_MAX else None


def _add(ms: int, count: int, unit: str) -> int:
    fixed = _FIXED.get(unit)
    if fixed is not None:
        return ms + count * fixed
    days, rest = divmod(ms, _DAY)
    year, month, day = civil_from_days(days)
    years, month = divmod(month - 1 + (count if unit == "M" else 12 * count), 12)
    year, month = year + years, month + 1
    # The 31st of a month that has none becomes its last day.
    return days_from_civil(year, month, min(day, _month_length(year, month))) * _DAY + rest


def _floor(ms: int, unit: str) -> int:
    if unit == "w":
        days = ms // _DAY
        return (days - (days + 3) % 7) * _DAY  # day 0 was a Thursday
    if unit in _FIXED:
        return ms - ms % _FIXED[unit]
    year, month, _ = civil_from_days(ms // _DAY)
    return days_from_civil(year, month if unit == "M" else 1, 1) * _DAY
