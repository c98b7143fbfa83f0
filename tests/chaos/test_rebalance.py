"""Workers that die in the middle of a rebalance: no partition may stay without an owner."""

from __future__ import annotations

import pytest

from tests.chaos.scenarios import BROKER
from tests.chaos.spec import REVOKED, Failpoint
from tests.chaos.world import World, looks
from tests.servers import KafkaBroker

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]

SOON = 20.0  # seconds; a rebalance takes two or three


def comes(world: World, count: int) -> bool:
    """Whether so many events are committed soon."""
    return any(world.committed() == count for _ in looks(SOON))


def test_a_named_worker_that_dies_between_giving_up_and_joining_again() -> None:
    with KafkaBroker(BROKER) as broker, World(broker.bootstrap, 1) as world:
        world.feed(400)
        first = world.spawn(Failpoint(REVOKED, 1), name="worker-0")
        assert comes(world, 400)
        world.spawn(name="worker-1")  # gets half of the partitions as soon as the first has given them up
        assert first.ended(SOON)
        world.reap()
        world.spawn(name="worker-0")
        world.feed(400)
        assert comes(world, 800)
        broker.kill()  # nobody needs an orderly end
