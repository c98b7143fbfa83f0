"""What the documented rules say about a message: slow, plain, and without a line of the decoder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, NoReturn, TypeAlias
from zoneinfo import ZoneInfo

import numpy as np

from stream_detector.settings import Columns, EventRules

DEEP, TOO_DEEP = 300, 12_000  # how deep a reader gets in between depends on Python's version and its stack
DIGITS = 4_300  # longer integers Python does not read
FIRST_YEAR = datetime(1, 1, 1)
START_OF_TIME, END_OF_TIME = -62_135_596_800_000, 253_402_300_799_999
LARGEST = float(np.finfo(np.float32).max)
LONG_NUMBER = re.compile(rb"\d{4300}")


class Good(NamedTuple):
    """An event, and what it says."""

    sensor: str
    stamp: int  # epoch ms
    values: tuple[float | None, ...]  # as float32 holds them


Outcome: TypeAlias = Good | str  # or the reason of a reject


class _No(Exception):
    """A reject; the argument is its reason."""


class _Endless(Exception):
    """An integer that Python does not read."""


def judge(
    key: bytes | None, value: bytes | None, arrival: int, features: Sequence[str], columns: Columns, rules: EventRules
) -> tuple[Outcome, ...]:
    """What the message may be taken for: one outcome, but for the few cases that the rules leave open."""
    try:
        return (_judge(key, value, arrival, features, columns, rules),)
    except _No as reason:
        return (str(reason),)
    except _Endless:  # refused before anything else is looked at, malformed or not
        return ("non-finite", "not-json")
    except RecursionError:
        return ("not-json",)


def doubtful(value: bytes) -> bool:
    """Whether the rules leave it open: it nests so deep that a reader may or may not get through."""
    return value.count(b"[") + value.count(b"{") > DEEP and DEEP < _depth(value) < TOO_DEEP


def _judge(
    key: bytes | None, value: bytes | None, arrival: int, features: Sequence[str], columns: Columns, rules: EventRules
) -> Good:
    body = _object(value, rules)
    sensor = _sensor(body.get(columns.sensor_id), key, rules)
    given = body.get(columns.timestamp)
    if given is None:
        raise _No("missing-timestamp")
    stamp = _stamp(given, columns.timezone)
    values = _values(body, features, columns, rules)
    if arrival >= 0 and stamp > arrival + rules.max_future:
        raise _No("future-timestamp")
    if any(number is not None and not abs(number) < float("inf") for number in values):
        raise _No("non-finite")
    missing = sum(number is None for number in values)
    if missing == len(features):
        raise _No("no-values")
    if missing and rules.missing == "reject":
        raise _No("missing-feature")
    return Good(sensor, stamp, values)


# -- JSON, by the standard library's reader, which must be told to be strict ------------------------------------------


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > DIGITS:
        raise _Endless
    return int(digits)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, inner in pairs:
        name.encode()  # half of a surrogate pair is not text
        _whole(inner)
    return dict(pairs)


def _whole(inner: Any) -> None:
    if type(inner) is str:
        inner.encode()
    elif type(inner) is list:
        for item in inner:
            _whole(item)


PLAIN = json.JSONDecoder(parse_constant=_constant)
SURROGATES = json.JSONDecoder(parse_constant=_constant, object_pairs_hook=_pairs)
ENDLESS = json.JSONDecoder(parse_constant=_constant, object_pairs_hook=_pairs, parse_int=_integer)


def _object(value: bytes | None, rules: EventRules) -> dict[str, Any]:
    if value is None:
        raise _No("tombstone")
    if not value:
        raise _No("empty")
    if len(value) > rules.max_bytes:
        raise _No("too-long")
    try:
        text = str(value, "utf-8", "strict")
    except ValueError:
        raise _No("bad-encoding") from None
    reader = ENDLESS if LONG_NUMBER.search(value) else SURROGATES if b"\\u" in value else PLAIN
    try:
        body = reader.decode(text)
        if reader is not PLAIN:
            _whole(body)
    except ValueError:
        raise _No("not-json") from None
    if type(body) is not dict:
        raise _No("not-an-object")
    return body


def _depth(value: bytes) -> int:
    deepest = depth = 0
    for sign in re.sub(rb'"(?:[^"\\]|\\.)*"', b"", value, flags=re.DOTALL):
        depth += (sign in b"[{") - (sign in b"]}")
        deepest = max(deepest, depth)
    return deepest


# -- fields -----------------------------------------------------------------------------------------------------------


def _sensor(given: Any, key: bytes | None, rules: EventRules) -> str:
    if given is None and key is None:
        raise _No("missing-sensor-id")
    if given is None:
        try:
            given = str(key, "utf-8", "strict")  # type: ignore[arg-type] # is not None here
        except ValueError:
            raise _No("bad-sensor-id") from None
    elif type(given) is int:
        given = format(given, "d")
    if type(given) is not str or not given or len(given) > rules.max_sensor_id:
        raise _No("bad-sensor-id")
    return given


def _stamp(given: Any, zone: str) -> int:
    stamp: int | None = None
    if type(given) is str:
        stamp = read_time(given, zone)
    elif type(given) is int:
        stamp = given
    elif type(given) is float and abs(given) < 1e300 and given == int(given):
        stamp = int(given)
    if stamp is None or not START_OF_TIME <= stamp <= END_OF_TIME:
        raise _No("bad-timestamp")
    return stamp


def _digits(text: str) -> bool:
    return bool(text) and all("0" <= sign <= "9" for sign in text)


def read_time(text: str, zone: str) -> int | None:
    """Epoch ms of ``YYYY-MM-DD[T ]HH:MM:SS[.f…][Z|±HH:MM]``; None for anything else."""
    head, rest = text[:19], text[19:]
    numbers = (head[0:4], head[5:7], head[8:10], head[11:13], head[14:16], head[17:19])
    marks = head[4:5], head[7:8], head[13:14], head[16:17]
    if len(head) < 19 or not all(map(_digits, numbers)) or marks != ("-", "-", ":", ":") or head[10] not in "Tt ":
        return None
    try:
        moment = datetime(*map(int, numbers))  # type: ignore[arg-type] # six of them
    except ValueError:
        return None
    thousandths = 0
    if rest.startswith("."):
        count = 1
        while _digits(rest[count : count + 1]):
            count += 1
        if count == 1:
            return None
        thousandths = int((rest[1:count] + "00")[:3])
        rest = rest[count:]
    if rest in ("Z", "z") or (rest == "" and zone == "UTC"):
        minutes = 0.0
    elif rest == "":
        shift = moment.replace(tzinfo=ZoneInfo(zone)).utcoffset()
        minutes = 0.0 if shift is None else shift / timedelta(minutes=1)
    elif len(rest) == 6 and rest[0] in "+-" and rest[3] == ":" and _digits(rest[1:3] + rest[4:]):
        if int(rest[1:3]) > 23 or int(rest[4:]) > 59:
            return None
        minutes = (int(rest[1:3]) * 60 + int(rest[4:])) * (1.0 if rest[0] == "+" else -1.0)
    else:
        return None
    return START_OF_TIME + (moment - FIRST_YEAR) // timedelta(milliseconds=1) + thousandths - round(minutes * 60_000)


def _values(
    body: Mapping[str, Any], features: Sequence[str], columns: Columns, rules: EventRules
) -> tuple[float | None, ...]:
    ignored = {*columns.ignored, columns.label} - {*features, columns.sensor_id, columns.timestamp}
    inner = body.get(columns.values)
    if type(inner) is dict and columns.values not in ignored:
        fields = inner  # nested: what stands beside it does not matter
    else:
        fields = {name: value for name, value in body.items() if name not in (columns.sensor_id, columns.timestamp)}
        if columns.values in fields and columns.values not in features and columns.values not in ignored:
            if inner is not None:
                raise _No("bad-value")
            del fields[columns.values]
    if any(type(fields.get(name)) not in (int, float, type(None)) for name in features):
        raise _No("bad-value")
    if rules.unknown_features == "reject" and not fields.keys() <= {*features, *ignored}:
        raise _No("unknown-feature")
    return tuple(narrow(fields.get(name)) for name in features)


def narrow(number: float | None) -> float | None:
    """The number as a float32 holds it."""
    if number is None:
        return None
    try:
        wide = float(number)
    except OverflowError:
        return float("inf")
    if abs(wide) > 2 * LARGEST:
        return float("inf")
    with np.errstate(over="ignore"):
        return float(np.float32(wide))
