"""Whatever dies, and whenever: every alert arrives or is a dead letter, in order, and no commit runs ahead."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.codec import decode_alert
from stream_detector.webhooks.backlog import Entry
from stream_detector.webhooks.ports import Outcome, Word
from stream_detector.webhooks.progress import decode
from tests.alerts import record
from tests.stream_detector.webhooks.simulated import Life, World

BAD: list[Word] = ["busy", "refused", "timeout", "unreachable", "unsendable"]
ACTIONS = ["turn", "turn", "turn", "land", "land", "wait", "long", "kill", "lose", "away", "write", "well", "ill"]


def outcome(world: World) -> Outcome:
    word = world.random.choice(BAD) if world.random.random() < world.illness else "delivered"  # type: ignore[attr-defined]
    asked = world.random.choice([None, None, 30.0]) if word == "busy" else None
    return Outcome(word, "as the test has it", retry_after=asked)


def check_commit(world: World) -> None:
    """What the next life would skip is done."""
    if world.committed is None:
        return
    so_far = decode(*world.committed)
    for place, (_, value) in enumerate(world.log):
        if so_far.done(2 * place) and decode_alert(value) is not None:
            assert 2 * place in world.finished, f"offset {2 * place} is committed and not done"


class Judge:
    """Watches the order in which revisions are done."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.dead_before = 0

    def __call__(self, entry: Entry) -> Outcome:
        found = outcome(self.world)
        if found.word == "delivered":
            self.older_are_done(entry)
        return found

    def older_are_done(self, entry: Entry) -> None:
        assert entry.alert is not None
        for place, (_, value) in enumerate(self.world.log[: entry.offset // 2]):
            other = decode_alert(value)
            if other is not None and other.id == entry.alert.id:
                assert 2 * place in self.world.finished, f"{entry.id} overtook revision {other.revision}"


@given(st.lists(st.sampled_from(ACTIONS), min_size=60, max_size=160), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_nothing_is_lost_and_nothing_overtakes(actions: list[str], seed: int) -> None:
    world: Any = World(max_waiting=10)
    world.random.seed(seed)
    world.illness = 0.4
    world.answer = Judge(world)
    revisions: dict[str, int] = {}

    def write() -> None:
        name = world.random.choice("abcdefgh")
        revisions[name] = revisions.get(name, 0) + 1
        world.write(record(name, revisions[name]))
        if world.random.random() < 0.2:
            world.write((b"x", world.random.choice([None, b"no alert"])))

    for _ in range(15):
        write()
    life = Life(world)
    for action in actions:
        if action == "turn":
            life.turn()
        elif action == "land":
            life.land()
        elif action in ("wait", "long"):
            world.time += world.random.uniform(0, 20 if action == "wait" else 5_000)
        elif action == "kill":
            life.kill()
            life = Life(world)
        elif action == "lose":
            life.topic.thrown_out = True
        elif action == "away":
            world.failing = world.random.randint(1, 4)
        elif action == "write":
            write()
        else:
            world.illness = 0.0 if action == "well" else 0.9
        check_commit(world)
    world.failing, world.illness = 0, 0.0
    for _ in range(30):
        life.run(3)
        world.time += 1_400
    check_commit(world)
    wanted = {f"{a.id}-{a.revision}" for _, value in world.log if (a := decode_alert(value)) is not None}
    dead = {name for name, _ in world.dead}
    assert wanted <= set(world.accepted) | dead
    assert len(life.courier.backlog) == 0
    # And the next life has nothing left to do.
    before = list(world.tried)
    Life(world).run()
    assert world.tried == before
