"""How much a target is trusted now: how many tries at a time, and from when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

State = Literal["ok", "open", "disabled"]

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0  # seconds between probes
BREATH, LONGEST_BREATH = 1.0, 60.0  # seconds after a target said that it has too much to do


@dataclass(slots=True)
class Circuit:
    """Of one target. After ``failures`` in a row it is open: one probe at a time, ever further apart.

    Tries go up by one with each success and down to half when the target says that it has too much to do. What it asks
    for by ``Retry-After`` is kept in any state.
    """

    failures: int
    concurrency: int
    draw: Callable[[], float]
    limit: int = 0  # tries at a time
    row: int = 0  # failures in a row
    pause: float = FIRST_PAUSE
    breath: float = BREATH
    not_before: float = field(default=float("-inf"))
    disabled: bool = False

    def __post_init__(self) -> None:
        self.limit = self.concurrency

    @property
    def state(self) -> State:
        if self.disabled:
            return "disabled"
        return "open" if self.row >= self.failures else "ok"

    def allows(self, now: float, flying: int) -> int:
        """How many more tries may begin now."""
        if self.disabled or now < self.not_before:
            return 0
        return max(0, (1 if self.state == "open" else self.limit) - flying)

    def succeeded(self) -> None:
        self.row, self.pause, self.breath = 0, FIRST_PAUSE, BREATH
        self.limit = min(self.concurrency, self.limit + 1)

    def failed(self, now: float, asked: float | None = None, busy: bool = False) -> None:
        """``asked``: seconds that the target wants to be left alone; ``busy``: its status says that it is."""
        self.row += 1
        wait = 0.0 if asked is None else asked
        if now >= self.not_before:  # else it began before we knew, and says nothing new
            if busy:
                self.limit = max(1, self.limit // 2)
                if asked is None:
                    wait, self.breath = self.breath, min(2 * self.breath, LONGEST_BREATH)
            if self.state == "open":
                wait = max(wait, self.pause * (1 + self.draw() / 4))
                self.pause = min(2 * self.pause, LONGEST_PAUSE)
        if wait > 0:
            self.not_before = max(self.not_before, now + wait)

    def gone(self) -> None:
        """The target wants nothing any more: nothing is sent until somebody starts us again."""
        self.disabled = True
