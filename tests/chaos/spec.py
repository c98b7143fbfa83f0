"""What one worker process is to be: its settings, and where it is to die."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

POINTS = (
    "before-append",
    "after-append",  # between Redis and Kafka
    "before-commit",  # the broker has results and positions, the transaction is open
    "after-commit",  # between Kafka and Redis
    "after-settle",
    "in-poll",  # with events that nobody has applied
    "after-load",
)
REVOKED = "after-revoke"  # between the two halves of a cooperative rebalance; most workers never come there
Break = Literal["position", "stable"]


class Failpoint(NamedTuple):
    """Where a worker ends or stops itself: at the ``hit``-th time that it comes to ``name``."""

    name: str
    hit: int
    how: Literal["kill", "stop"] = "kill"


@dataclass(frozen=True)
class Spec:
    settings: dict[str, Any]
    stride: int
    log: str  # what it says, appended to
    lethal: str  # where it notes that it dies, appended to
    failpoint: Failpoint | None = None
    broken: Break | None = None  # negative control: which protection is off
    learns: bool = True  # whether the bundle learns on, so that more than its scores decides

    def write(self, path: Path) -> None:
        """For ``python -m tests.chaos.worker PATH``."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Spec:
        given = json.loads(path.read_text())
        point = given.pop("failpoint")
        return cls(**given, failpoint=Failpoint(*point) if point else None)


def work(spec: Spec) -> None:
    """The life of a forked worker. What it needs has been imported before the fork, or is now."""
    log = os.open(spec.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from tests.chaos.worker import run

    sys.exit(run(spec))
