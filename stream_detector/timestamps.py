"""Event times: read as users write them, written as RFC 3339, epoch milliseconds (UTC) in between."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import cast

import numpy as np

from stream_detector.events import Int64

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
EARLIEST, LATEST = (
    -62_135_596_800_000,
    253_402_300_799_999,
)  # the years 1 to 9999, all that RFC 3339 can write
WRITTEN = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ](?:[01]\d|2[0-3]):\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)?", re.ASCII
).fullmatch
NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?", re.ASCII).fullmatch


def parse(given: object, zone: tzinfo) -> int:
    """Epoch ms of RFC 3339 text, ``YYYY-MM-DD HH:MM:SS[.fff]``, a `datetime`, or epoch ms.

    Fractions of a millisecond are cut. Times that name no zone are in ``zone``. Where clocks are set back, an
    hour happens twice: a time in it is taken as the first (``fold=0``). Raises `ValueError` with a line for
    the user.
    """
    if type(given) is str:
        if not WRITTEN(given):
            raise ValueError(f"{given!r:.60} is not RFC 3339, YYYY-MM-DD HH:MM:SS or epoch milliseconds")
        try:
            given = datetime.fromisoformat(given.upper())
        except ValueError:
            raise ValueError(f"{given!r:.60} is not a date and time that exists") from None
    if isinstance(given, datetime):
        try:
            since = (given if given.tzinfo is not None else given.replace(tzinfo=zone)) - EPOCH
        except OverflowError:
            raise ValueError("out of the years 1 to 9999") from None
        given = since.days * 86_400_000 + since.seconds * 1_000 + since.microseconds // 1_000
    elif type(given) is float and given.is_integer():
        given = int(given)
    if type(given) is not int:
        raise ValueError("neither text nor whole milliseconds")
    if not EARLIEST <= given <= LATEST:
        raise ValueError("out of the years 1 to 9999")
    return given


def parse_cell(text: str, zone: tzinfo) -> int:
    """The same for a cell of a table, where epoch milliseconds are text too."""
    if not NUMBER(text):
        return parse(text, zone)
    return parse(int(text) if text.isdigit() and len(text) < 20 else float(text), zone)


def rfc3339(ms: int) -> str:
    """``2026-11-20T10:00:00.123Z``. Raises `ValueError` out of the years 1 to 9999."""
    if not EARLIEST <= ms <= LATEST:
        raise ValueError(f"{ms} ms is out of the years 1 to 9999")
    return (EPOCH + ms * MILLISECOND).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def rfc3339_all(ms: Int64) -> list[str]:
    """`rfc3339` of an array (n), quickly."""
    return cast("list[str]", np.datetime_as_string(ms.astype("datetime64[ms]"), unit="ms", timezone="UTC").tolist())
