"""Whatever dies, what a `read_committed` reader sees is what one undisturbed run publishes.

The histories run side by side on one broker; most of their time is spent waiting until the dead are noticed. Each
starts when the first test asks for it or for another.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.chaos.faults import Outcome, Scenario
from tests.chaos.scenarios import BROKER, CONTROLS, SCENARIOS, perform
from tests.servers import KafkaBroker

pytestmark = [pytest.mark.servers, pytest.mark.timeout(1_200)]

log = logging.getLogger(__name__)

SIDE_BY_SIDE = 5
SEED = 20_260_000
BROKEN_SEEDS = 3  # of each negative control; one that shows the harm is enough

Key = tuple[str, int]


def planned() -> Iterator[tuple[Key, Scenario]]:
    """Every history of this module by (name, number)."""
    for scenario in SCENARIOS.values():
        yield (scenario.name, 0), scenario
    for control in CONTROLS.values():
        yield (control.name, 0), dataclasses.replace(control, broken=None)
        for number in range(BROKEN_SEEDS):
            yield (control.name, number + 1), control


@pytest.fixture(scope="module")
def histories(request: pytest.FixtureRequest) -> Iterator[Mapping[Key, Future[Outcome]]]:
    """All of them, or those whose tests were selected."""
    selected = [item for item in request.session.items if item.path == request.path]
    names = {
        item.callspec.params["name"]
        for item in selected
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
    }
    client = logging.getLogger("kafka")
    level = client.level
    client.setLevel(logging.CRITICAL)  # tens of lines a second where a broker is away
    with KafkaBroker(BROKER) as broker, ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        running = {
            key: pool.submit(perform, scenario, SEED + at, broker.bootstrap)
            for at, (key, scenario) in enumerate(planned())
            if key[0] in names
        }
        yield running
        pool.shutdown(cancel_futures=True)
        broker.kill()  # nobody needs an orderly end
    client.setLevel(level)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_history_of_faults_ends_as_an_undisturbed_run(histories: Mapping[Key, Future[Outcome]], name: str) -> None:
    outcome = histories[name, 0].result()
    log.info("%s", outcome)
    assert outcome.problems == []
    scenario = outcome.scenario
    assert outcome.faults.total() - outcome.faults["stall"] == len(scenario.redis) + scenario.broker_faults


@pytest.mark.parametrize("name", [control.name for control in CONTROLS.values()])
def test_without_a_protection_the_same_histories_break(histories: Mapping[Key, Future[Outcome]], name: str) -> None:
    whole, *broken = [history.result() for (of, _), history in histories.items() if of == name]
    for outcome in (whole, *broken):
        log.info("%s", outcome)
    assert whole.problems == []
    assert any(outcome.problems and "it broke down" not in outcome.problems[0] for outcome in broken)


def test_enough_workers_died_where_it_matters(histories: Mapping[Key, Future[Outcome]]) -> None:
    if {name for name, _ in histories} != {name for (name, _), _ in planned()}:
        pytest.skip("only some of the histories were selected")
    deaths = sum((history.result().deaths for history in histories.values()), Counter[str]())
    log.info("deaths: %s", deaths)
    assert sum(count for where, count in deaths.items() if where.startswith("kill ")) >= 50
    assert deaths["kill after-append"] >= 10
    assert deaths["kill after-commit"] >= 10
    assert sum(count for where, count in deaths.items() if where.startswith("stop ")) >= 10
