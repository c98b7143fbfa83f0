"""The histories that `make test` runs once and `make chaos` with many seeds, and the brokers that they need."""

from __future__ import annotations

import dataclasses
import random

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from tests.chaos.faults import Outcome, Scenario, Strike, run
from tests.chaos.world import World, looks
from tests.servers.cluster import NODES, KafkaCluster

EVERYWHERE = (
    *["after-append", "after-commit"] * 4,  # between Redis and Kafka, and between Kafka and Redis: where it hurts most
    *("before-append", "before-commit", "after-settle", "in-poll", "after-load"),
)

BROKER = {  # of every test broker: who is dead is noticed soon
    "group.min.session.timeout.ms": "1000",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
}
CAUGHT_UP = 30.0  # seconds that a broker may take to have everything again

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("leader killed", kills=5, points=EVERYWHERE, broker="leader killed", broker_faults=2),
        Scenario("named workers killed", kills=24, points=EVERYWHERE, static=True, stride=3),
        Scenario("workers killed", kills=16, points=EVERYWHERE, workers=4),
        Scenario("broker restarted", kills=6, points=EVERYWHERE, broker="restarted", broker_faults=2, static=True),
        Scenario("zombies", kills=2, zombies=6),
        Scenario("named zombies", kills=2, zombies=6, static=True, stride=3),
        Scenario("redis restarted", kills=8, zombies=2, static=True, stride=3, redis=("restart", "kill", "rollback")),
        Scenario("redis rolled back", kills=8, points=EVERYWHERE, static=True, redis=("rollback", "rollback")),
        Scenario("redis flushed", kills=8, points=EVERYWHERE, static=True, redis=("flush", "flush")),
        Scenario("redis flushed, stride 3", kills=8, static=True, stride=3, redis=("flush", "flush")),
        Scenario("at least once", kills=10, points=EVERYWHERE, static=True, mode="at_least_once"),
    )
}

# Zombies at the one place where the protection that is off would have helped. The same without ``broken`` must pass.
CONTROLS = {
    scenario.broken: scenario
    for scenario in (
        Scenario(
            "no compare-and-set",
            kills=0,
            zombies=5,
            zombie_points=("before-append",),
            random_kills=0,
            broken="position",
        ),
        Scenario(
            "open transactions not waited for",
            kills=0,
            zombies=3,
            zombie_points=("before-commit",),
            random_kills=0,
            transaction_timeout="30s",
            broken="stable",
        ),
    )
}


# The same with every protection on, for `make chaos`; `make test` runs them beside the controls.
PROTECTED = {
    scenario.name: scenario
    for scenario in (
        dataclasses.replace(control, name=f"zombies {control.zombie_points[0]}", broken=None)
        for control in CONTROLS.values()
    )
}


def perform(scenario: Scenario, seed: int, shared: str) -> Outcome:
    """One history on the brokers that it needs; ``shared`` is one that stays.

    Three where one goes away: a lone broker of Kafka 4.4 that is killed right after a commit, and now and then one that
    is stopped in order, records a transaction as complete without its marker among the group's offsets.
    """
    if scenario.broker == "shared":
        return run(shared, scenario, seed)
    with KafkaCluster(BROKER) as cluster:
        strike = {"leader killed": lose_leader, "restarted": restart}[scenario.broker](cluster, random.Random(seed))
        return run(cluster.bootstrap, scenario, seed, strike)


def restart(cluster: KafkaCluster, rng: random.Random) -> Strike:
    """One after another, in order, as an upgrade does it."""

    def strike(world: World) -> str:
        rng.choice(list(cluster.nodes.values())).restart()
        whole(cluster.bootstrap)
        return "broker restarted"

    return strike


def lose_leader(cluster: KafkaCluster, rng: random.Random) -> Strike:
    """Kill whoever leads a partition; the next time let it come back."""
    dead: list[int] = []

    def strike(world: World) -> str:
        if dead:
            cluster.nodes[dead.pop()].start()
            whole(cluster.bootstrap)
            return "broker started"
        topic = rng.choice([world.topics("wild")["events"], "__consumer_offsets", "__transaction_state"])
        dead.append(cluster.leader(topic, rng.randrange(4)))
        cluster.nodes[dead[0]].kill()
        return "leader killed"

    return strike


def whole(bootstrap: str) -> None:
    """Wait until every partition is on every node again: else the next kill could leave too few."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        for _ in looks(CAUGHT_UP):
            try:
                topics = admin.describe_topics(admin.list_topics())
            except KafkaError:
                continue
            if all(len(one["isr_nodes"]) == len(NODES) for topic in topics for one in topic["partitions"]):
                return
        raise AssertionError(f"the cluster is not whole after {CAUGHT_UP:.0f} s")
    finally:
        admin.close()
