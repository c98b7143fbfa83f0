"""Fixtures that every test may use: the real servers, a simulated plant, a bundle trained on it.

A test that asks for a server is marked `servers` by itself, so that `pytest -m "not servers"` leaves it out.
One that starts its own (to kill it, or with other settings) carries `@pytest.mark.servers`. A missing server
is an error, never a skip.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.servers import KafkaBroker, RedisCluster, RedisServer
from training.plant import Plant, write_plant

if TYPE_CHECKING:
    from tests.browser import Chromium

# Programs that score a few windows are compiled in half the time; processes that are to be as a user's go without.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

# Minutes each: they begin first, so that processes side by side end together.
LONGEST = (
    *("test_family.py", "test_chaos.py", "test_commands.py", "test_readme.py", "test_service.py"),
    *("test_pipeline_histories.py", "test_train.py", "test_groups.py", "test_tutorial.py", "test_secure.py"),
    *("test_checkpoints.py", "test_workers.py", "test_evaluate.py", "test_partners.py", "test_keras.py"),
)


@pytest.hookimpl(tryfirst=True)  # before pytest's own hook, which selects by mark
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    for item in items:
        if not {"kafka_broker", "redis_server", "redis_cluster", "chromium"}.isdisjoint(
            getattr(item, "fixturenames", ())
        ):
            item.add_marker("servers")


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[KafkaBroker]:
    """One broker for the whole run: use topic and group names of your own, and leave it running."""
    with KafkaBroker() as broker:
        yield broker


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One server for the whole run; most tests want `redis_url`."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of a server without any keys."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """One cluster for the whole run; most tests want `redis_cluster_url`."""
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture
def redis_cluster_url(redis_cluster: RedisCluster) -> str:
    """The URL of a node of a cluster without any keys."""
    redis_cluster.flush()
    return redis_cluster.url


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """One browser for the whole run."""
    from tests.browser import Chromium  # its client takes half a second, which other tests need not pay

    with Chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    """A small simulated plant: two pumps, a day to learn from, half a day with a fault."""
    return write_plant(tmp_path_factory.mktemp("plant"), pumps=2, train_days=1.5, stream_days=0.5, seed=3)


@pytest.fixture(scope="session")
def bundle(plant: Plant, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle trained by the command on that plant: windows of 16 events, stride 1, as small as it can be."""
    from tests.commandline import invoke  # with what it takes in, which tests without a bundle need not pay for

    out = tmp_path_factory.mktemp("trained") / "pumps"
    options = ["--window", "16", "--stride", "1", "--epochs", "3", "--units", "8"]
    done = invoke("train", plant.train, "--out", out, *options)
    assert done.code == 0, done.err
    return out
