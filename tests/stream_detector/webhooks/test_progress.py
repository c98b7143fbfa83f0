"""What is committed about a partition comes back as it was, or as less: never as more."""

from __future__ import annotations

import base64
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.webhooks.progress import LONGEST, Progress, Waiting, decode, encode

WAITING = st.builds(Waiting, st.integers(1, 2**33), st.booleans())
OPEN = st.dictionaries(st.integers(10**6, 10**6 + 3_000), WAITING, max_size=300)


@given(OPEN, st.integers(0, 10**5))
def test_it_comes_back_as_it_was_or_as_less(waiting: dict[int, Waiting], ahead: int) -> None:
    rising = dict(sorted(waiting.items()))
    progress = Progress(max(rising, default=10**6) + 1 + ahead, rising)
    text = encode(progress)
    assert len(text) <= LONGEST
    found = decode(progress.offset, text)
    if len(rising) <= 100:
        assert found == progress
    assert found.offset == progress.offset
    for offset in range(10**6, 10**6 + 3_100):
        assert not (found.done(offset) and not progress.done(offset))


def test_a_thousand_that_wait_fit() -> None:
    waiting = {5 * at + at % 3: Waiting(1_800_000_000 + 977 * at % 50_000, at % 2 == 0) for at in range(1_000)}
    progress = Progress(10**7, waiting)
    found = decode(progress.offset, encode(progress))
    assert found.waiting.keys() == waiting.keys()
    assert found.reached == progress.reached


def test_what_does_not_fit_is_repeated() -> None:
    waiting = {at * 1_000_003 % 10**9: Waiting(at, False) for at in range(20_000)}
    rising = dict(sorted(waiting.items()))
    progress = Progress(10**9 + 1, rising)
    found = decode(progress.offset, encode(progress))
    assert found.offset == progress.offset
    assert all(offset in rising for offset in found.waiting)
    assert not any(found.done(offset) for offset in rising)


@pytest.mark.parametrize(
    "text",
    ["", "from another program", "{}", base64.b64encode(b"x").decode()]
    + [
        base64.b64encode(zlib.compress(inner)).decode()
        for inner in (b"7", b"[]", b'[1,"a",[],[]]', b"[1,1,[1],[[]]]", b'[1,1,["x"],[]]', b"[9,1,[],[]]", b"\xff")
    ],
)
def test_metadata_of_others_says_nothing(text: str) -> None:
    assert decode(7, text) == Progress(7)
