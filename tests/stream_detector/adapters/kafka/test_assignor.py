"""What a member claims to own when it joins."""

from __future__ import annotations

from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment

from stream_detector.adapters.kafka.assignor import HonestAssignor


def claims(assignor: CooperativeStickyAssignor) -> list[tuple[str, list[int]]]:
    return [(owned.topic, owned.partitions) for owned in assignor.metadata({"events"}).owned_partitions]


def assigned(assignor: CooperativeStickyAssignor) -> None:
    assignor.on_assignment(ConsumerProtocolAssignment(1, [("events", [0, 2])], b""), 1)


def test_a_member_claims_what_it_was_assigned_while_it_stays_one() -> None:
    assignor = HonestAssignor()
    assignor.member = lambda: "worker-1"
    assert claims(assignor) == []
    assigned(assignor)
    assert claims(assignor) == [("events", [0, 2])]
    assert claims(assignor) == [("events", [0, 2])]


def test_a_member_that_was_thrown_out_claims_nothing_when_it_comes_back() -> None:
    assignor, plain = HonestAssignor(), CooperativeStickyAssignor()
    assignor.member = lambda: "worker-1"
    assigned(assignor)
    assigned(plain)
    assignor.member = lambda: ""
    assert claims(assignor) == []
    assignor.member = lambda: "worker-1-again"
    assert claims(assignor) == []
    assigned(assignor)
    assert claims(assignor) == [("events", [0, 2])]
    assert claims(plain) == [("events", [0, 2])]  # whoever it is by now: what this is about


def test_on_the_wire_it_is_the_same_protocol() -> None:
    assert (HonestAssignor.name, HonestAssignor.version) == (
        CooperativeStickyAssignor.name,
        CooperativeStickyAssignor.version,
    )
