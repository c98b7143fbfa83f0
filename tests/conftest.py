"""Fixtures that every test may use: the real servers.

A test that asks for a server is marked `servers` by itself, so that `pytest -m "not servers"` leaves it out.
One that starts its own (to kill it, or with other settings) carries `@pytest.mark.servers`. A missing server
is an error, never a skip.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import KafkaBroker, RedisServer


@pytest.hookimpl(tryfirst=True)  # before pytest's own hook, which selects by mark
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not {"kafka_broker", "redis_server"}.isdisjoint(getattr(item, "fixturenames", ())):
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
