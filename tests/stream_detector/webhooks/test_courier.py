"""When a courier tries, waits, gives up and goes on; `test_courier_histories` says that nothing is lost by it."""

from __future__ import annotations

import threading

from stream_detector.webhooks.backlog import Entry
from stream_detector.webhooks.ports import Outcome, Word
from tests.alerts import alert, record
from tests.stream_detector.webhooks.simulated import PARTITION, Life, World


def id_of(name: str, revision: int = 1) -> str:
    return f"{alert(name).id}-{revision}"


def says(word: Word, retry_after: float | None = None) -> Outcome:
    return Outcome(word, "so it is", retry_after=retry_after)


def test_a_schedule_is_followed_and_then_a_dead_letter_written() -> None:
    world = World(jitter=0, circuit_failures=99)
    world.answer = lambda entry: says("refused")
    world.write(record("a"))
    life, begun, times = Life(world), world.time, []
    for _ in range(800):
        before = len(world.tried)
        life.run(4)
        times += [world.time - begun] * (len(world.tried) - before)
        world.time += 1
    assert times == [0, 5, 65, 665]
    assert world.dead == [(id_of("a"), "exhausted")]


def test_a_restart_goes_on_in_the_schedule() -> None:
    world = World(jitter=0, circuit_failures=99)
    world.answer = lambda entry: says("refused")
    world.write(record("a"))
    life = Life(world)
    life.run()
    life.rest()
    assert len(world.tried) == 1
    world.time += 30
    life = Life(world)
    life.run()
    assert len(world.tried) == 1, "a restart is no reason to try"
    world.time += 36
    life.run()
    assert len(world.tried) == 2


def test_others_go_on_beside_one_that_is_refused_for_ever() -> None:
    world = World(jitter=0, circuit_failures=3)
    world.answer = lambda entry: says("refused" if entry.name == alert("bad").id else "delivered")
    world.write(record("bad"), record("bad", 2, "resolved"), *(record(f"good{number}") for number in range(20)))
    life = Life(world)
    life.run(20)
    assert sorted(world.accepted) == sorted(id_of(f"good{number}") for number in range(20))
    for _ in range(30):
        life.run(2)
        world.time += 100
    assert [name for name, _ in world.dead] == [id_of("bad"), id_of("bad", 2)]


def test_an_open_circuit_tries_one_at_a_time_and_closes() -> None:
    world = World(jitter=0, max_waiting=100)
    world.answer = lambda entry: says("unreachable")
    world.write(*(record(f"a{number}") for number in range(10)))
    life = Life(world)
    life.run()
    assert world.state == "open"
    tried = len(world.tried)
    assert tried <= 5, "three failures open it; those that were under way may add two"
    for _ in range(60):
        life.run(1)
        world.time += 1
    # After 5, 10, 20 seconds and a quarter at most: never two at once, and each time another alert.
    assert len(world.tried) - tried <= 4
    assert len(set(world.tried)) == len(world.tried)
    world.answer = lambda entry: says("delivered")
    world.time += 400
    life.run(20)
    assert world.state == "ok"
    assert len(world.accepted) == 10


def test_what_waited_for_an_open_circuit_is_tried_when_it_closes() -> None:
    world = World(jitter=0, max_waiting=100, retries=["10h"])
    world.answer = lambda entry: says("unreachable")
    world.write(*(record(f"a{number}") for number in range(4)))
    life = Life(world)
    life.run()
    assert world.state == "open"
    world.answer = lambda entry: says("delivered")
    world.write(record("new"))
    world.time += 300
    life.run()
    assert len(world.accepted) == 5


def test_what_was_never_tried_is_given_up_with_a_circuit_that_stays_open() -> None:
    world = World(jitter=0, max_waiting=100)
    world.answer = lambda entry: says("timeout")
    world.write(*(record(f"a{number}") for number in range(20)))
    life = Life(world)
    for _ in range(60):
        life.run(1)
        world.time += 200
    assert len(world.dead) == 20
    assert {reason for _, reason in world.dead} == {"exhausted"}


def test_gone_disables_until_a_restart() -> None:
    world = World()
    world.answer = lambda entry: says("gone")
    world.write(*(record(f"a{number}") for number in range(5)))
    life = Life(world)
    life.run()
    assert world.state == "disabled"
    assert {reason for _, reason in world.dead} == {"gone", "disabled"}
    world.answer = lambda entry: says("delivered")
    world.write(record("later"))
    life.run()
    life.rest()
    assert (id_of("later"), "disabled") in world.dead
    world.write(record("after"))
    Life(world).run()
    assert world.accepted == [id_of("after")]


def test_retry_after_keeps_everybody_away() -> None:
    world = World(jitter=0, circuit_failures=99)
    world.answer = lambda entry: says("busy", retry_after=40.0)
    world.write(record("a"), record("b"))
    life = Life(world)
    life.run()
    tried = len(world.tried)
    world.answer = lambda entry: says("delivered")
    world.time += 39
    life.run()
    assert len(world.tried) == tried
    world.time += 2
    world.write(record("c"))
    life.run()
    assert id_of("c") in world.accepted
    world.time += 60
    life.run()
    assert len(world.accepted) == 3


def test_no_more_is_read_than_may_wait() -> None:
    world = World(jitter=0, max_waiting=6)
    world.answer = lambda entry: says("unreachable")
    world.write(*(record(f"a{number}") for number in range(50)))
    life = Life(world)
    life.run(30)
    assert 6 <= len(life.courier.backlog) < 6 + 4, "a poll brings up to four more"
    world.answer = lambda entry: says("delivered")
    for _ in range(30):
        world.time += 300
        life.run(10)
    assert len(world.accepted) == 50


def test_a_new_target_begins_with_what_is_new_and_remembers_where() -> None:
    world = World(start="latest")
    world.write(record("old"))
    Life(world).run(1)  # killed before anything was done
    world.write(record("new"))
    Life(world).run()
    assert world.accepted == [id_of("new")]


def test_what_retention_took_is_counted_and_not_waited_for() -> None:
    world = World()
    world.answer = lambda entry: says("refused")
    world.write(*(record(f"a{number}") for number in range(5)))
    Life(world).run()
    world.first, world.answer = 6, lambda entry: says("delivered")
    world.time += 10_000
    Life(world).run()
    assert world.missed_records == 6
    assert set(world.accepted) == {id_of("a3"), id_of("a4")}


def test_who_was_thrown_out_of_the_group_comes_back() -> None:
    world = World()
    world.write(record("a"))
    life = Life(world)
    life.run()
    life.topic.thrown_out = True
    world.write(record("b"))
    for _ in range(5):
        life.rest()  # each of them wants to commit, which is refused until a poll has joined again
        life.land_all()
    life.rest()
    assert world.accepted[-1] == id_of("b")
    assert world.committed is not None
    assert world.committed[0] == 4


def test_a_dead_letter_that_cannot_be_written_holds_up_no_other_alert() -> None:
    world = World(jitter=0)
    world.answer = lambda entry: says("unsendable" if entry.name == alert("bad").id else "delivered")
    world.write(record("bad"), record("good"))
    life = Life(world)
    for _ in range(3):
        life.turn()
    life.land_all()
    world.failing = 1_000
    life.run()
    assert world.accepted == [id_of("good")]
    assert world.dead == []
    world.failing = 0
    life.run()
    assert world.dead == [(id_of("bad"), "unsendable")]


def test_leaving_says_how_far_it_came() -> None:
    world = World()
    world.write(record("a"), record("b"))
    life = Life(world)
    life.turn()
    life.turn()
    life.turn()
    assert life.flights
    while life.flights:
        life.land()
    life.courier.close()
    assert life.topic.closed
    Life(world).run()
    assert len(world.tried) == 2


def test_filters() -> None:
    world = World(
        targets={
            "ops": {
                "url": "https://hooks.example/",
                "format": "slack",
                "severities": ["major", "critical"],
                "kinds": ["anomaly"],
                "sensors": ["pump-*", "fan-?"],
                "send_resolved": False,
            }
        }
    )
    world.write(
        record("a"),
        record("b", severity="minor"),
        record("c", kind="silence"),
        record("d", sensor_id="fan-12"),
        record("e", sensor_id="fan-1"),
        record("f", sensor_id="PUMP-1"),
        record("g", 2, "resolved"),
    )
    life = Life(world)
    life.run()
    life.rest()
    assert sorted(world.accepted) == sorted([id_of("a"), id_of("e")])
    assert world.committed is not None
    assert world.committed[0] == 14, "what nobody wants is done"


def test_an_alert_without_a_body_is_a_dead_letter_at_once() -> None:
    world = World()
    seen: list[Entry] = []

    def answer(entry: Entry) -> Outcome:
        seen.append(entry)
        return says("unsendable")

    world.answer = answer
    world.write(record("a"), (b"x", b"{}"), (b"y", None))
    Life(world).run()
    assert sorted(reason for _, reason in world.dead) == ["unreadable", "unsendable"]
    assert world.state == "ok"
    assert len(seen) == 1


def test_a_partition_goes_to_another_when_what_is_under_way_has_ended() -> None:
    world = World()
    world.write(record("a"), record("b"), record("a", 2, "resolved"))
    life = Life(world)
    for _ in range(3):
        life.turn()
    assert len(life.flights) == 2
    ending = threading.Thread(target=life.land_all)
    ending.start()
    life.courier.revoked([PARTITION])
    ending.join()
    assert life.courier.owned == 0
    Life(world).run()
    assert world.tried == [*world.tried[:2], id_of("a", 2)], "the next owner repeats nothing"
