"""Finding the event that the windows cannot take: a mistake of ours must cost that event and not the partition."""

from __future__ import annotations

import copy
from bisect import bisect_left
from dataclasses import replace

import numpy as np

from stream_detector.events import Events, Reject, Slice
from stream_detector.sensors import Table
from stream_detector.windows import advance


def sift(table: Table, batch: Slice) -> Slice:
    """The batch with every event that makes `advance` fail among its rejects. Slow: it tries on copies of the table."""
    kept = list(range(len(batch.events)))
    rejects = list(batch.rejects)
    while True:
        events = batch.events.take(np.array(kept, np.intp))
        if _failure(table, events) is None:
            break
        # How many of the first events it takes to fail: the last of them is the one.
        count = bisect_left(
            range(1, len(kept) + 1), True, key=lambda count: _failure(table, events.take(slice(0, count))) is not None
        )
        at = kept.pop(count)
        key, value = batch.raw[at]
        why = _failure(table, events.take(slice(0, count + 1)))
        message = f"no window can take it: {type(why).__name__}: {why}"
        rejects.append(Reject(int(batch.events.offsets[at]), "unreadable", message, key, value))
    raw = [batch.raw[at] for at in kept]
    return replace(batch, events=events, rejects=sorted(rejects, key=lambda reject: reject.offset), raw=raw)


def _failure(table: Table, events: Events) -> Exception | None:
    try:
        advance(copy.deepcopy(table), events)
    except Exception as error:  # whatever it is: the mistake is not known, or it would not be there
        return error
    return None
