"""What ``stream-detector check`` looks at, one step after the other; a later step needs no earlier one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stream_detector.adapters.kafka import probe_kafka
from stream_detector.adapters.keras import KerasScorer, device_name
from stream_detector.adapters.redis import RedisStore
from stream_detector.configured import open_bundle
from stream_detector.errors import StreamDetectorError
from stream_detector.events import Finding
from stream_detector.settings import Settings

OLDEST_REDIS = (6, 2)  # LPOP with a count


def findings(settings: Settings, bundle: Path | None) -> Iterator[Finding]:
    """The settings have been read already; the rest as it is found."""
    yield Finding("settings", True, "valid")
    yield from _bundle(settings, bundle)
    yield from _redis(settings)
    yield from probe_kafka(settings)


def _bundle(settings: Settings, path: Path | None) -> Iterator[Finding]:
    try:
        bundle = open_bundle(settings, path)
    except StreamDetectorError as error:
        yield Finding("bundle", False, str(error))
        return
    manifest = bundle.manifest
    made_for = f"windows of {manifest.length} events, stride {manifest.stride}, {len(manifest.features)} features"
    yield Finding("bundle", True, f"{manifest.name} {manifest.version}: {manifest.kind}, {made_for}")
    try:
        scorer = KerasScorer(bundle, 1)
        scorer.load()
        scorer.score([""], np.asarray(manifest.means, np.float32) + np.zeros((1, manifest.length, 1), np.float32))
    except StreamDetectorError as error:
        yield Finding("device", False, str(error))
        return
    yield Finding("device", True, f"a forward pass works on {device_name()}")


def _redis(settings: Settings) -> Iterator[Finding]:
    try:
        store = RedisStore(settings.redis, str(settings.kafka.group_id))
        store.ping()
        facts = store.facts()
    except StreamDetectorError as error:
        yield Finding("redis", False, str(error))
        return
    version = facts["redis_version"]
    new_enough = tuple(int(part) for part in version.split(".")[:2]) >= OLDEST_REDIS
    needed = ".".join(map(str, OLDEST_REDIS))
    yield Finding("redis", new_enough, f"version {version}" + ("" if new_enough else f"; use {needed} or newer"))
    policy = facts["maxmemory_policy"]
    kept = policy == "noeviction"
    advice = f"maxmemory-policy is {policy}: windows could be evicted; set it to noeviction"
    yield Finding("redis eviction", kept, policy if kept else advice)
