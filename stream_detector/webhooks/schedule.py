"""When to try again: a schedule of delays with jitter, counted from an alert's first try."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Schedule:
    """Seconds from one try to the next. Time alone uses it up, so a try out of turn, such as a probe, costs none."""

    delays: Sequence[float]
    jitter: float  # the share of a delay that is added at random, at most
    draw: Callable[[], float] = random.random  # [0, 1)

    @property
    def total(self) -> float:
        """Seconds from the first try to the last."""
        return sum(self.delays)

    def next(self, since: float, now: float) -> float | None:
        """When to try again after a failure at ``now`` of what was first tried at ``since``; None: not any more.

        The last try is the first one made after all delays together have passed.
        """
        for delay, point in zip(self.delays, accumulate(self.delays), strict=True):
            if since + point > now:
                return since + point + delay * self.jitter * self.draw()
        return None

    def over(self, since: float, now: float) -> bool:
        """Whether every delay has passed: whatever fails now is given up."""
        return since + self.total <= now


def retry_after(text: str | None, now: float, longest: float) -> float | None:
    """Seconds to wait by a ``Retry-After`` header, a number or a date; None if there is none that makes sense."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(min(int(text[:12]), longest))
    try:
        when = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    try:
        return min(max(0.0, (when - datetime.fromtimestamp(now, UTC)).total_seconds()), longest)
    except OverflowError:
        return None
