"""Messages for the fuzz: valid ones, known by construction, and hostile ones made of them. Seeded, repeatable."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from tests.fuzz.oracle import Good

FEATURES = ("pressure", "current", "flow")
HOSTILE_IDS = (
    "{braces}", "}{", "{sd:g:t:0}:rows:a", "new\nline", "a\r\nb", "\x00", "\x00\x07\x1b[31mred\x1b[0m", "\x7f\x85",
    "a b", " ", "'quoted'", '"', "\\", "\\u0000", "<script>alert(1)</script>", "<img src=x onerror=alert(1)>",
    "&amp;&#0;", "javascript:0", "*", "a*", "a?[b]", ":rows:", "a:b", "../../etc/passwd", "%00%s%n", "$(reboot)",
    "`id`", "'; DROP TABLE x; --", "-1", "0", "null", "NaN", "true", "é", "e\u0301", "ü" * 256, "x" * 256,
    "\u202egnp.exe", "\u2028", "\ufeffbom", "\U0001f4a5", "\U0010ffff", "\ue000", "\uffff", "a\tb", "{{7*7}}",
    "${jndi:ldap://x}", "sensor_id", "values", "timestamp",
)  # fmt: skip
SENSORS = (*HOSTILE_IDS, *(f"pump-{number}" for number in range(150)))
TOKENS = (
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"NaN", b"Infinity", b"-Infinity", b"1e999",
    b"-1e999", b"1e39", b"\x00", b"\n", b"\xff", b"\xfe\xff", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80",
    b"\\ud800", b"\\udc00\\ud800", b"\\u0000", b"\xef\xbb\xbf", b"\\", b"\\x", b"-", b"-0", b"0", b"9",
    b"99999999999999999999", b".5", b"1.", b"e", b"//", b"/**/", b"'", b"<script>", b"{}", b"[]", b'""', b'{"a":1}',
    b'"pressure":1,', b'"pressure":"1",', b'"sensor_id":"x",', b'"timestamp":0,', b'"values":{},', b'"values":null,',
    b'"volume":1,', b"+", b" ", b"\t", b"\x0b", b"\xc2\xa0", b"\x7f", b"1" * 400,
)  # fmt: skip
DEEP = (
    b"[" * 60_000,
    b'{"pressure":' * 5_000 + b"1" + b"}" * 5_000,
    b'{"sensor_id":"a","timestamp":0,"values":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
)
LITERALS = (
    "null", "true", "false", "0", "-0", "-0.0", "1", "1.5", "1e39", "-1e39", "1e999", "-1e999", "1e-400",
    "3.4028235e38", "3.4028236e38", "9" * 400, "-" + "9" * 4_000, "9" * 4_301, "0.1" + "1" * 5_000, '""', '"1"',
    '"1e3"', '"NaN"', "NaN", "Infinity", "[]", "[1]", "{}", '{"pressure":1}', "[" * 50 + "]" * 50, '"\\ud83d\\ude00"',
    '"\\ud83d"', '"x"', "1.0", "12345678901234567890123", '"' + "n" * 10_000 + '"', '"\\u0000\\n"', '"<b>"', '"{}"',
    "1E+2", "2147483648", "9223372036854775808",
)  # fmt: skip
TIMES = (
    *LITERALS, "1e12", "1700000000000.0", "1700000000000.5", "-62135596800000", "-62135596800001", "253402300799999",
    "253402300800000", '"2023-11-14"', '"2023-11-14T22:13:20"', '"2023-11-14T22:13:60Z"', '"2023-11-14T24:00:00Z"',
    '"2023-02-29T00:00:00Z"', '"0001-01-01T00:00:00+14:00"', '"9999-12-31T23:59:59-00:01"', '"0000-01-01T00:00:00Z"',
    '"2023-11-14T22:13:20.Z"', '"2023-11-14T22:13:20+24:00"', '"2023-11-14T22:13:20 Z"', '"2023-W46-2T22:13:20"',
    '"20231114T221320Z"', '"1700000000000"', '"２０２３-11-14T22:13:20Z"',
    '"2023-11-14T22:13:20.123456789012345678901234567890Z"', '"2023-11-14\\u000022:13:20Z"', '"now"',
    '"99999-01-01T00:00:00Z"', '"-2023-11-14T22:13:20Z"', '"2023-11-14T22:13:20Z\\n"', '"2023-11-14T22:13:20,5Z"',
)  # fmt: skip
KEYS = (
    None,
    b"",
    b"k",
    b"\xff",
    b"\xed\xa0\x80",
    b"\x00",
    b"k" * 256,
    b"k" * 257,
    "ü".encode() * 256,
    b'{"a":1}',
    b"\xef\xbb\xbfk",
    b"\n",
)
VALUELESS = (
    None,
    b"",
    b" ",
    b"null",
    b"[]",
    b'"x"',
    b"1",
    b"{}",
    b"\xef\xbb\xbf{}",
    b"\x00",
    b"\xff\xfe{\x00}\x00",
    *DEEP,
)


class Message(NamedTuple):
    """One record to be, and what it is if that is known from how it was made."""

    key: bytes | None
    value: bytes | None
    known: Good | None


class Maker:
    """An endless stream of messages. Event time goes on by a millisecond a message."""

    def __init__(self, seed: int, start: int, hostile: float = 0.5) -> None:
        self.rng = random.Random(seed)
        self.now, self.hostile = start, hostile
        self.recent: deque[Message] = deque(maxlen=64)
        self.names = [(name, json.dumps(name), json.dumps(name, ensure_ascii=False), name.encode()) for name in SENSORS]
        self.shapes: Sequence[Callable[[str, str, str], str]] = (
            lambda name, time, inner: f'{{"sensor_id": {name}, "timestamp": {time}, "values": {{{inner}}}}}',
            lambda name, time, inner: f'{{"sensor_id":{name},"timestamp":{time},{inner}}}',
            lambda name, time, inner: f'{{{inner}, "timestamp": {time}, "sensor_id": {name}}}',
            lambda name, time, inner: f'\t{{"timestamp":{time} ,\r\n"values":{{{inner}}},"sensor_id" :{name}}}\n',
            lambda name, time, inner: (
                f'{{"site":{{"a":[1]}},"sensor_id":{name},"timestamp":{time},"values":{{{inner}}}}}'
            ),
        )

    def batch(self, count: int, pause: int) -> list[Message]:
        """The next messages; event time goes on by ``pause`` ms more after them."""
        random, hostile, made = self.rng.random, self.hostile, []
        for _ in range(count):
            self.now += 1
            made.append(self.bad() if random() < hostile else self.good())
        self.now += pause
        return made

    def good(self) -> Message:
        """A valid event, by construction."""
        random = self.rng.random
        name, escaped, raw, key = self.names[int(random() * len(self.names))]
        written = escaped if random() < 0.5 else raw
        holes = random() < 0.1
        numbers: list[float | None] = [round(random() * 20 - 5, 3) for _ in FEATURES]
        if holes:
            numbers[int(random() * 3)] = None
        pieces = [f'"{feature}":{_written(number)}' for feature, number in zip(FEATURES, numbers, strict=True)]
        if holes and random() < 0.5:
            pieces = [piece for piece in pieces if not piece.endswith("null")]
        draw = random()
        if draw < 0.6:
            time = str(self.now)
        else:
            moment = datetime.fromtimestamp(self.now / 1_000, UTC)
            text = f"{moment:%Y-%m-%d} {moment:%H:%M:%S}.{self.now % 1_000:03}"
            zone = ("", "Z", "+00:00", "-00:00")[int(random() * 4)]
            time = f'"{text if draw < 0.8 else text.replace(" ", "T")}{zone}"'
        if random() < 0.05:
            written = "null"  # then the key says whose it is
        text = self.shapes[int(random() * len(self.shapes))](written, time, ",".join(pieces))
        values = tuple(None if number is None else float(np.float32(number)) for number in numbers)
        message = Message(key, text.encode(), Good(name, self.now, values))
        self.recent.append(message)
        return message

    def bad(self) -> Message:
        """Whatever may come: most of it no event, some of it one by chance."""
        rng = self.rng
        if not self.recent:
            return Message(None, b"", None)
        draw = rng.random()
        key, value, _ = self.recent[int(rng.random() * len(self.recent))]
        if draw < 0.62:
            assert value is not None
            value = self._mutated(value)
        elif draw < 0.92:
            value = self._made()
        elif draw < 0.925:
            value = rng.choice(VALUELESS)
        elif draw < 0.93:
            value = b'{"sensor_id":"a","x":"%s"}' % (b"x" * rng.choice((65_000, 65_536, 70_000)))
        elif draw < 0.96:
            value = rng.choice(VALUELESS[:10])
        if rng.random() < 0.1:
            key = rng.choice(KEYS)
        return Message(key, value, None)

    def _mutated(self, value: bytes) -> bytes:
        rng, data = self.rng, bytearray(value)
        for _ in range(1 if rng.random() < 0.6 else 3):
            at = int(rng.random() * (len(data) + 1))
            kind = int(rng.random() * 9)
            if kind == 0 and at < len(data):
                data[at] ^= 1 << int(rng.random() * 8)
            elif kind == 1 and at < len(data):
                data[at] = int(rng.random() * 256)
            elif kind == 2:
                del data[at:]
            elif kind == 3:
                data[at:at] = TOKENS[int(rng.random() * len(TOKENS))]
            elif kind == 4:
                del data[at : at + 1 + int(rng.random() * 8)]
            elif kind == 5:
                data[at:at] = data[at : at + 1 + int(rng.random() * 30)]
            elif kind == 6:
                other = self.recent[int(rng.random() * len(self.recent))].value or b""
                data[at:] = other[int(rng.random() * len(other)) :]
            elif kind == 7 and at < len(data) and 48 <= data[at] < 58:
                data[at] = 48 + int(rng.random() * 10)
            else:
                data[at : at + 1] = TOKENS[int(rng.random() * len(TOKENS))]
        return bytes(data)

    def _made(self) -> bytes:
        """JSON, most of the time, of fields that are odd one by one."""
        rng = self.rng

        def pick(some: Sequence[str]) -> str:
            return some[int(rng.random() * len(some))]

        name = self.names[int(rng.random() * len(self.names))][1] if rng.random() < 0.6 else pick(LITERALS)
        time = str(self.now) if rng.random() < 0.6 else pick(TIMES)
        numbers = [pick(LITERALS) if rng.random() < 0.25 else "1.5" for _ in FEATURES]
        pieces = [f'"{feature}":{number}' for feature, number in zip(FEATURES, numbers, strict=True)]
        draw = rng.random()
        if draw < 0.1:
            pieces.append(f'"volume":{pick(LITERALS)}')
        elif draw < 0.2:
            pieces.append(f'"pressure":{pick(LITERALS)}')  # again: the last one counts
        elif draw < 0.3:
            del pieces[int(rng.random() * 3) :]
        inner = ",".join(pieces)
        shape = int(rng.random() * (len(self.shapes) + 2))
        if shape < len(self.shapes):
            text = self.shapes[shape](name, time, inner)
        elif shape == len(self.shapes):
            text = f'{{"sensor_id":{name},"timestamp":{time},"values":{pick(LITERALS)}{"," * bool(inner)}{inner}}}'
        else:
            fields = [
                f'"sensor_id":{name}',
                f'"timestamp":{time}',
                f'"values":{{{inner}}}',
                f'"values":{pick(LITERALS)}',
            ]
            text = "{" + ",".join(field for field in fields if rng.random() < 0.8) + "}"
        return text.encode()


def _written(number: float | None) -> str:
    return "null" if number is None else repr(number)
