"""What every `Outlet` promises, on every adapter."""

from __future__ import annotations

import json

import msgspec

from stream_detector.codec import encode_alert, encode_embedding, encode_score
from stream_detector.events import Alert, Embedding, Model, Origin, Partition, Reject, Score
from stream_detector.ports import Delivery
from tests.contract.conftest import OutletUnderTest, Read

TIME = "2026-11-20T10:00:00.000Z"
HOSTILE = "pump\x00\n<script>ü"


def score(number: int, sensor: str = "pump-1") -> Score:
    origin = Origin("events", 0, number, number + 1)
    about = {"pressure": 0.75, "current": 0.25}
    return Score(
        f"s{number}", sensor, TIME, TIME, 2, 1.5, 0.1, 0.15, "firing", about, 1, 1.0, [], Model("m", "1"), origin
    )


def alert(number: int, sensor: str = "pump-1") -> Alert:
    model, origin = Model("m", "1"), Origin("events", 0, number, number + 1)
    return Alert(
        f"a{number}", 1, "firing", "anomaly", sensor, "minor", TIME, None, 1.5, 1.5, 0.1, {}, {}, {}, "…", model, origin
    )


def embedding(number: int, sensor: str = "pump-1") -> Embedding:
    return Embedding(f"s{number}", sensor, TIME, TIME, [0.5, -1.25], Model("m", "1"), Origin("events", 0, number, 1))


def delivery(partition: Partition, number: int, sensor: str = "pump-1") -> Delivery:
    """One of everything, after which reading goes on at ``number + 1``."""
    reject = Reject(number, "not-json", "line 1", b"key", b"{nonsense")
    about = [score(number, sensor)], [alert(number, sensor)], [(partition, reject)], {partition: number + 1}
    return Delivery(*about, [embedding(number, sensor)])


def expected(*numbers: int, sensor: str = "pump-1") -> Read:
    return Read(
        [json.loads(encode_score(score(number, sensor))) for number in numbers],
        [json.loads(encode_alert(alert(number, sensor))) for number in numbers],
        ["not-json"] * len(numbers),
        numbers[-1] + 1 if numbers else None,
        [json.loads(encode_embedding(embedding(number, sensor))) for number in numbers],
    )


def test_nothing_is_committed_at_first(outlet_under_test: OutletUnderTest) -> None:
    outlet = outlet_under_test.outlet()
    outlet.open()
    assert outlet.committed(outlet_under_test.partition) is None
    outlet.close()


def test_deliveries_arrive_whole_in_order_and_with_their_position(outlet_under_test: OutletUnderTest) -> None:
    at = outlet_under_test.partition
    outlet = outlet_under_test.outlet()
    outlet.open()
    for number in range(3):
        outlet.deliver(delivery(at, number))
        assert outlet.committed(at) == number + 1
    outlet.close()
    assert outlet_under_test.read() == expected(0, 1, 2)


def test_a_position_alone_is_a_delivery(outlet_under_test: OutletUnderTest) -> None:
    at = outlet_under_test.partition
    outlet = outlet_under_test.outlet()
    outlet.open()
    outlet.deliver(delivery(at, 0))
    outlet.deliver(Delivery([], [], [], {at: 9}))
    assert outlet.committed(at) == 9
    outlet.close()
    read = outlet_under_test.read()
    assert (len(read.scores), read.committed) == (1, 9)


def test_a_new_outlet_goes_on_where_the_old_one_stopped(outlet_under_test: OutletUnderTest) -> None:
    at = outlet_under_test.partition
    for number in range(3):
        outlet = outlet_under_test.outlet()
        outlet.open()
        assert outlet.committed(at) == (number or None)
        outlet.deliver(delivery(at, number))
        outlet.close()
    assert outlet_under_test.read() == expected(0, 1, 2)


def test_what_dies_before_the_commit_point_never_was(outlet_under_test: OutletUnderTest) -> None:
    at = outlet_under_test.partition
    outlet = outlet_under_test.outlet()
    outlet.open()
    outlet.deliver(delivery(at, 0))
    outlet.close()

    outlet_under_test.crash_midway(delivery(at, 1))

    assert outlet_under_test.read() == expected(0)
    successor = outlet_under_test.outlet()
    successor.open()
    assert successor.committed(at) == 1
    successor.deliver(delivery(at, 1))
    successor.close()
    assert outlet_under_test.read() == expected(0, 1)


def test_a_first_delivery_that_dies_never_was(outlet_under_test: OutletUnderTest) -> None:
    at = outlet_under_test.partition
    outlet_under_test.crash_midway(delivery(at, 0))
    outlet = outlet_under_test.outlet()
    outlet.open()
    assert outlet.committed(at) is None
    outlet.deliver(delivery(at, 0))
    outlet.close()
    assert outlet_under_test.read() == expected(0)


def test_hostile_sensor_ids_arrive_as_they_are(outlet_under_test: OutletUnderTest) -> None:
    outlet = outlet_under_test.outlet()
    outlet.open()
    outlet.deliver(delivery(outlet_under_test.partition, 0, HOSTILE))
    outlet.close()
    assert outlet_under_test.read() == expected(0, sensor=HOSTILE)


def test_keys_and_values_of_rejects_need_not_be_text(outlet_under_test: OutletUnderTest) -> None:
    at = outlet_under_test.partition
    outlet = outlet_under_test.outlet()
    outlet.open()
    rejects = [(at, Reject(n, "bad-encoding", "…", key, b"\xff\x00")) for n, key in enumerate([None, b"\xff", b""])]
    rejects.append((at, Reject(3, "tombstone", "…", b"key", None)))
    outlet.deliver(Delivery([], [], rejects, {at: 4}))
    outlet.close()
    assert outlet_under_test.read().dead_letters == ["bad-encoding"] * 3 + ["tombstone"]


def test_opening_and_closing_again(outlet_under_test: OutletUnderTest) -> None:
    at = outlet_under_test.partition
    outlet = outlet_under_test.outlet()
    outlet.open()
    outlet.deliver(delivery(at, 0))
    outlet.open()  # what the pipeline does when the outcome of a delivery is unknown
    assert outlet.committed(at) == 1
    outlet.deliver(delivery(at, 1))
    outlet.close()
    outlet.close()
    assert outlet_under_test.read() == expected(0, 1)


def test_alerts_that_are_not_resolved_can_be_read_again(outlet_under_test: OutletUnderTest) -> None:
    at = outlet_under_test.partition
    outlet = outlet_under_test.outlet()
    outlet.open()
    assert outlet.standing(at, 1_000, 0) == []
    mine = Origin(at.topic, at.number, 5, 6)
    stays, over, later, elsewhere = (
        msgspec.structs.replace(alert(number, f"pump-{number}"), source=mine) for number in range(4)
    )
    worse = msgspec.structs.replace(stays, revision=2, severity="major", source=Origin(*at, 7, 8))
    ended = msgspec.structs.replace(over, revision=2, status="resolved")
    later = msgspec.structs.replace(later, source=Origin(*at, 19, 20))
    elsewhere = msgspec.structs.replace(elsewhere, source=Origin(at.topic, at.number + 1, 5, 6))
    outlet.deliver(Delivery([], [stays, over, elsewhere], [], {at: 8}))
    outlet.deliver(Delivery([], [worse, ended, later], [], {at: 21}))
    assert outlet.standing(at, 20, 0) == [worse]
    assert outlet.standing(at, 8, 0) == [stays]
    assert sorted(outlet.standing(at, 100, 0), key=lambda one: one.id) == [worse, later]
    outlet.close()


def test_alerts_that_are_over_can_be_read_again_as_long_as_they_may_count(outlet_under_test: OutletUnderTest) -> None:
    at = outlet_under_test.partition
    outlet = outlet_under_test.outlet()
    outlet.open()
    records = []
    for number, (sensor, kind, peak) in enumerate(
        [
            ("a", "anomaly", 9.0),
            ("a", "anomaly", 2.0),
            ("b", "anomaly", 3.0),
            ("a", "fault", 8.0),
            ("a", "anomaly", 4.0),
        ]
    ):
        for revision, status in enumerate(("firing", "resolved"), 1):
            made = msgspec.structs.replace(alert(number, sensor), source=Origin(*at, 2 * number, 2 * number + revision))
            ended = None if status == "firing" else made.started_at
            records.append(
                msgspec.structs.replace(
                    made,
                    kind=kind,
                    peak_score=9 - peak,
                    peak_strength=peak,
                    revision=revision,
                    status=status,
                    ended_at=ended,
                )
            )
    outlet.deliver(Delivery([], records, [], {at: 11}))

    def peaks(before: int, limit: int) -> dict[str, list[float]]:
        found = outlet.standing(at, before, limit)
        assert all(one.status == "resolved" for one in found)
        return {name: [one.peak_strength for one in found if one.sensor_id == name] for name in ("a", "b")}

    assert peaks(100, 0) == {"a": [], "b": []}
    assert peaks(100, 1) == {"a": [9, 4], "b": [3]}  # the second of a: one that is higher came after it
    assert peaks(100, 2) == {"a": [9, 2, 4], "b": [3]}
    assert peaks(7, 1) == {"a": [9, 2], "b": [3]}
    outlet.close()


def test_alerts_that_died_before_the_commit_point_are_not_read_again(outlet_under_test: OutletUnderTest) -> None:
    at = outlet_under_test.partition
    mine = msgspec.structs.replace(alert(1), source=Origin(*at, 1, 2))
    outlet_under_test.crash_midway(Delivery([], [mine], [], {at: 3}))
    outlet = outlet_under_test.outlet()
    outlet.open()
    assert outlet.standing(at, 100, 0) == []
    outlet.close()
