"""What ``stream-detector check`` looks at, one step after the other; a later step needs no earlier one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from stream_detector.adapters.kafka import probe_kafka
from stream_detector.adapters.keras.compilers import device_name
from stream_detector.adapters.keras.scorer import KerasScorer
from stream_detector.adapters.redis.store import RedisStore
from stream_detector.adapters.registry import open_beside, open_bundle
from stream_detector.bundle import Bundle
from stream_detector.configured import locations
from stream_detector.contents import Manifest
from stream_detector.dispatch import check_webhooks
from stream_detector.errors import Moved, StreamDetectorError
from stream_detector.events import Finding, Partition
from stream_detector.ports import Update
from stream_detector.settings import Settings

OLDEST_REDIS = (6, 2)  # LPOP with a count
SKEW = 10.0  # seconds between two clocks that are synchronised, at the very most


def findings(settings: Settings, bundle: str | None) -> Iterator[Finding]:
    """The settings have been read already; the rest as it is found."""
    yield Finding("settings", True, "valid")
    yield from _bundles(settings, bundle)
    yield from _redis(settings)
    yield from probe_kafka(settings)
    yield from check_webhooks(settings)


def _bundles(settings: Settings, path: str | None) -> Iterator[Finding]:
    try:
        common = open_bundle(settings, path)
    except StreamDetectorError as error:
        yield Finding("bundle", False, str(error))
        return
    yield Finding("bundle", True, _described(common.manifest))
    try:
        _pass_through(common)
    except StreamDetectorError as error:
        yield Finding("device", False, str(error))
    else:
        yield Finding("device", True, f"a forward pass works on {device_name()}")
    for name, location in locations(settings, path).items():
        if name:
            what = f"bundle of group {name}"
            try:
                bundle = open_beside(common, settings, location)
                _pass_through(bundle)
                yield Finding(what, True, _described(bundle.manifest))
            except StreamDetectorError as error:
                yield Finding(what, False, str(error))


def _described(manifest: Manifest) -> str:
    made_for = f"windows of {manifest.length} events, stride {manifest.stride}, {len(manifest.features)} features"
    return f"{manifest.name} {manifest.version}: {manifest.kind}, {made_for}"


def _pass_through(bundle: Bundle) -> None:
    """One window through the model."""
    manifest = bundle.manifest
    scorer = KerasScorer(bundle, 1)
    scorer.load()
    scorer.score([""], np.asarray(manifest.means, np.float32) + np.zeros((1, manifest.length, 1), np.float32))


def _redis(settings: Settings) -> Iterator[Finding]:
    store = None
    try:
        store = RedisStore(settings.redis, str(settings.kafka.group_id))
        store.ping()
        facts = store.facts()
        yield from _redis_facts(facts)
        yield _rehearsal(store, store.samples(settings.topics.events, facts))
    except StreamDetectorError as error:
        yield Finding("redis", False, str(error))
    finally:
        if store is not None:
            store.close()


def _redis_facts(facts: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    """The worst of each, by server, and of which it is if there are several."""

    def worst(name: str, badness: Callable[[str], Any]) -> tuple[str, str]:
        where = max(facts, key=lambda server: badness(facts[server][name]))
        return facts[where][name], f" on {where}" if len(facts) > 1 else ""

    version, where = worst("redis_version", lambda told: [-part for part in _numbers(told)])
    new_enough = _numbers(version) >= OLDEST_REDIS
    needed = ".".join(map(str, OLDEST_REDIS))
    several = f", a cluster of {len(facts)} primaries" if where else ""
    told = f"version {version}{several}" if new_enough else f"version {version}{where}; use {needed} or newer"
    yield Finding("redis", new_enough, told)
    policy, where = worst("maxmemory_policy", lambda told: told != "noeviction")
    kept = policy == "noeviction"
    advice = f"maxmemory-policy is {policy}{where}: windows could be evicted; set it to noeviction"
    yield Finding("redis eviction", kept, policy if kept else advice)
    file, where = worst("aof_enabled", lambda told: told == "0")
    lost = f"no append-only file{where}: after its restart, windows are read again from Kafka"
    yield Finding("redis persistence", True, "append-only file" if file != "0" else lost)
    clock, where = worst("clock_ahead", lambda told: abs(float(told)))
    ahead = float(clock)
    together = abs(ahead) < SKEW
    told = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} Redis'{where}"
    advice = f"this machine's clock is {told}; synchronise both: silence alerts and latencies go by it"
    yield Finding("clock", together, f"within {SKEW:g} s of Redis'" if together else advice)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def _rehearsal(store: RedisStore, partitions: Sequence[Partition]) -> Finding:
    """Everything the service asks of Redis, on partitions that no topic has; nothing of it stays."""
    try:
        for partition in partitions:
            _rehearse(store, partition)
    except StreamDetectorError as error:
        return Finding("redis permissions", False, str(error))
    return Finding("redis permissions", True, "reading and writing windows is allowed")


def _rehearse(store: RedisStore, partition: Partition) -> None:
    life = "check"
    update = Update(
        life, "check", True, 0, 1, 0,
        sensors=["a"], rows=[b"row"], headers=[b"header"], keep=[0], tails=[3], expired=["b"],
        pending=b"waits", waiting=["a"], alerts={"a": b"state"},
    )  # fmt: skip
    with suppress(Moved):  # there is none, unless a check was broken off
        store.discard(partition, life)
    with suppress(Moved):  # another check is at it, which is as good
        store.append(partition, update)
        store.load(partition)
        store.settle(partition, life, 0, 1, {"a": b"state", "b": None})
        store.discard(partition, life)
