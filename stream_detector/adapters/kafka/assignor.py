"""Cooperative-sticky assignment whose members claim only what is theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor


class HonestAssignor(CooperativeStickyAssignor):  # type: ignore[misc]
    """kafka-python's, which in 3.0.12 lets a member that was thrown out claim on its return what it had before.

    Claims carry no generation there, and the last of two counts: the leader may give such a partition to the one that
    is back while another still works on it, in the same rebalance, without it having been given up first. Two owners
    at once publish windows twice. On the wire it is the same protocol, so members of either kind can share a group.
    """

    def __init__(self) -> None:
        super().__init__()
        self.member: Callable[[], str] = lambda: ""  # our id in the group now, empty while we are in none
        self.assigned_to = ""  # as whom we were last told what is ours

    def on_assignment(self, assignment: Any, generation: int) -> None:
        """Remember as whom we got it."""
        self.assigned_to = self.member()
        super().on_assignment(assignment, generation)

    def metadata(self, topics: Any) -> Any:
        """What a JoinGroup request says of us."""
        if self.member() != self.assigned_to:
            self.member_assignment = None
        return super().metadata(topics)
