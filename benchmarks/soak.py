"""Whether the service stays as it is for an hour: ``python -m benchmarks.soak --minutes 60 --sensors 100000``.

A real broker, a real Redis, the service as users start it, and a producer at half of the rate that this machine was
found to bear (`make soak`). Memory of the service and of Redis, windows that wait and lag are sampled; after a warm-up
memory may not grow and lag may not drift. Writes ``soak.csv`` and a plot. Exit code 1 if something does.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import redis

from benchmarks.load import CYCLE, PARTITIONS, STRIDE, Load, fill, train
from benchmarks.service import Service
from tests.servers import KafkaBroker, RedisServer

EVERY = 5.0  # seconds between two samples
WARM = 0.25  # share of the time after which nothing may grow
GROWTH = 0.05  # share that memory may grow by over the rest, …
NOISE = 8.0  # … or so many MB: what batches of other sizes make
BATCH = 20_000  # events at most: by so many may come and go what is read, and windows that wait, from look to look
CALIBRATION = 30.0  # seconds at full rate
PATIENCE = 1_800.0  # seconds for the windows to fill, and for a backlog to be read
SHARE = 0.5  # of what the calibration found
DRIFT = 1.0  # seconds' worth of events that the lag may drift by over the rest
ROOT = Path(__file__).resolve().parents[1]
# Small segments, and few of them: an hour of events must not fill the disk.
RETENTION = {"retention.bytes": str(256 * 2**20), "segment.bytes": str(64 * 2**20), "retention.ms": "600000"}


@dataclass(frozen=True, slots=True)
class Sample:
    """How things stand at a moment."""

    seconds: float
    rss_mb: float  # of the service
    redis_mb: float
    pending: float  # windows that filled and are not settled
    lag: float  # events
    events: float  # accepted so far
    rejects: float
    sensors: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure after warm-up, by a straight line through its samples, and by its peaks.

    What swings may look as if it rose by one of them. What rises, rises by both.
    """

    what: str
    level: float
    per_hour: float
    growth: float  # of the line, over the samples looked at
    peaks: float  # by how much the highest of the later half is above that of the earlier
    allowed: float

    @property
    def well(self) -> bool:
        return min(self.growth, self.peaks) <= self.allowed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=str(__doc__).partition(":")[0])
    parser.add_argument("--minutes", type=float, default=60, metavar="N", help="after calibration (60)")
    parser.add_argument("--sensors", type=int, default=100_000, metavar="N")
    parser.add_argument("--rate", type=float, metavar="N", help="events a second, instead of half of the maximum")
    parser.add_argument("--out", type=Path, default=Path("soak-out"), metavar="DIR", help="for soak.csv (soak-out)")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "soak.png", metavar="FILE")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as work:
        try:
            rate, samples = soak(Path(work), given.minutes * 60, given.sensors, given.rate, given.out / "soak.csv")
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    steady = [sample for sample in samples if sample.seconds >= WARM * given.minutes * 60]
    if len(steady) < 4:
        parser.error(f"--minutes {given.minutes:g}: too few samples; give 1 or more")
    verdicts = judge(steady, rate)
    plot(samples, steady[0].seconds, f"{given.sensors:,} sensors, {rate:,.0f} events/s", given.plot)
    report(verdicts, samples)
    if (each := (samples[-1].events - samples[0].events) / given.sensors) < 2 * CYCLE:
        print(f"note: {each:.0f} events a sensor; memory is steady after {CYCLE}, so give twice that or more")
    return 0 if all(verdict.well for verdict in verdicts) else 1


def soak(work: Path, seconds: float, sensors: int, rate: float | None, file: Path) -> tuple[float, list[Sample]]:
    """The rate, and the samples after calibration."""
    bundle = train(work)
    with ExitStack() as stack:
        broker, server = stack.enter_context(KafkaBroker(lasting=True)), stack.enter_context(RedisServer())
        topics = {name: f"soak-{name}" for name in ("events", "scores", "alerts", "dead_letters")}
        broker.create_topics(dict.fromkeys(topics.values(), PARTITIONS), RETENTION)
        settings = {
            "kafka": {"bootstrap_servers": broker.bootstrap, "group_id": "soak"},
            "topics": topics,
            "redis": {"url": server.url},
            "bundle": {"path": str(bundle)},
        }
        client = stack.enter_context(redis.Redis.from_url(server.url))
        service = stack.enter_context(Service(work / "service", settings))
        service.wait_ready()
        load = stack.enter_context(Load(broker.bootstrap, topics["events"], sensors))
        if rate is None:
            rate = calibrate(load, service, client, sensors)
        else:
            load.rate.value = float("inf")
            reach(load, service, client, fill(sensors))
        load.rate.value = rate
        settle(load, service, client, sensors)
        samples = list[Sample]()
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, [field.name for field in fields(Sample)])
            writer.writeheader()
            started, tell = time.monotonic(), 0.0
            while (passed := time.monotonic() - started) < seconds:
                samples.append(sample(service, client, passed))
                writer.writerow(asdict(samples[-1]))
                stream.flush()
                if passed >= tell:
                    print(line(samples[-1]), flush=True)
                    tell += 60
                load.alive()
                time.sleep(max(0.0, started + len(samples) * EVERY - time.monotonic()))
        if code := service.stop() - 143:
            raise RuntimeError(f"the service ended with exit code {code + 143}, not 143\n{service.log_tail()}")
    if samples[-1].rejects > samples[-1].events / 1_000:  # a clock that is set back makes some
        raise RuntimeError(f"{samples[-1].rejects:g} events were rejected")
    return rate, samples


def calibrate(load: Load, service: Service, client: redis.Redis, sensors: int) -> float:
    """Half of the events a second that the whole machine bears: producer, broker, Redis and service."""
    load.rate.value = float("inf")
    reach(load, service, client, fill(sensors))  # so that windows fill while it is measured
    before, started = sample(service, client, 0.0), time.monotonic()
    time.sleep(CALIBRATION)
    after = sample(service, client, time.monotonic() - started)
    most = (after.events - before.events) / after.seconds
    print(f"calibrated: {most:,.0f} events/s at most, of which {SHARE:.0%} are sent", flush=True)
    return SHARE * most


def reach(load: Load, service: Service, client: redis.Redis, events: int) -> None:
    """Until so many events are read."""
    deadline = time.monotonic() + PATIENCE
    while (now := sample(service, client, 0.0)).events < events:
        if time.monotonic() > deadline:
            raise RuntimeError(f"too slow: {line(now)}\n{service.log_tail()}")
        load.alive()
        time.sleep(1)


def settle(load: Load, service: Service, client: redis.Redis, sensors: int) -> None:
    """Until the calibration's backlog is read: what comes after is the rate's own."""
    deadline = time.monotonic() + PATIENCE
    while (now := sample(service, client, 0.0)).lag > 2 * load.rate.value or now.sensors < sensors:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the service does not catch up: {line(now)}\n{service.log_tail()}")
        load.alive()
        time.sleep(1)


def sample(service: Service, client: redis.Redis, seconds: float) -> Sample:
    """Look at everything once."""
    metrics = service.metrics()
    totals: dict[str, float] = {}
    for (name, _), value in metrics.items():
        totals[name] = totals.get(name, 0.0) + value
    prefix = "stream_detector_"
    return Sample(
        round(seconds, 1),
        round(totals["process_resident_memory_bytes"] / 2**20, 1),
        round(client.info("memory")["used_memory"] / 2**20, 1),
        totals[f"{prefix}pending_windows"],
        totals.get(f"{prefix}consumer_lag_events", 0.0),
        totals[f"{prefix}events_total"],
        totals.get(f"{prefix}rejects_total", 0.0),
        totals[f"{prefix}sensors"],
    )


def line(now: Sample) -> str:
    figures = (
        f"service {now.rss_mb:,.0f} MB, Redis {now.redis_mb:,.0f} MB, pending {now.pending:,.0f}, lag {now.lag:,.0f}"
    )
    return f"{now.seconds / 60:6.1f} min  {figures}, {now.events:,.0f} events, {now.sensors:,.0f} sensors"


def judge(samples: Sequence[Sample], rate: float) -> list[Verdict]:
    """What a straight line through the samples says of each figure."""
    times = np.array([sample.seconds for sample in samples])
    span = times[-1] - times[0]
    found = []
    for what, values in (
        ("service, MB", [sample.rss_mb for sample in samples]),
        ("Redis, MB", [sample.redis_mb for sample in samples]),
        ("pending windows", [sample.pending for sample in samples]),
        ("lag, events", [sample.lag for sample in samples]),
    ):
        slope, start = np.polyfit(times - times[0], np.array(values), 1)
        half = len(values) // 2
        level = float(start)
        events = max(DRIFT * rate, BATCH)
        allowed = max(GROWTH * level, NOISE) if "MB" in what else events / STRIDE if "windows" in what else events
        found.append(
            Verdict(
                what,
                level,
                float(slope) * 3_600,
                float(slope) * float(span),
                max(values[half:]) - max(values[:half]),
                allowed,
            )
        )
    return found


def report(verdicts: Sequence[Verdict], samples: Sequence[Sample]) -> None:
    """Print it."""
    pending = [sample.pending for sample in samples]
    done = samples[-1].events - samples[0].events
    print(f"\n{done:,.0f} events in {samples[-1].seconds / 60:.1f} min; pending windows: mean {np.mean(pending):,.0f},"
          f" at most {max(pending):,.0f}")  # fmt: skip
    print(f"{'after warm-up':18} {'at first':>12} {'an hour':>12} {'over it':>12} {'peaks':>12} {'allowed':>12}")
    for one in verdicts:
        figures = (
            f"{one.level:12,.1f} {one.per_hour:+12,.1f} {one.growth:+12,.1f} {one.peaks:+12,.1f} {one.allowed:12,.1f}"
        )
        print(f"{one.what:18} {figures}  {'ok' if one.well else 'GROWS'}")


def plot(samples: Sequence[Sample], warm: float, title: str, path: Path) -> None:
    """A picture of it."""
    os.environ.setdefault("MPLBACKEND", "agg")
    from matplotlib import pyplot

    minutes = [sample.seconds / 60 for sample in samples]
    figure, (memory, work) = pyplot.subplots(2, 1, figsize=(9, 5.5), sharex=True, layout="constrained")
    memory.plot(minutes, [sample.rss_mb for sample in samples], label="service, resident")
    memory.plot(minutes, [sample.redis_mb for sample in samples], label="Redis, used")
    memory.set_ylabel("MB")
    memory.set_title(title)
    work.plot(minutes, [sample.lag for sample in samples], label="lag, events", linewidth=0.8)
    work.plot(minutes, [sample.pending for sample in samples], label="windows that wait", linewidth=0.8)
    work.set_xlabel("minutes")
    for axes in (memory, work):
        axes.set_ylim(bottom=0)
        axes.axvspan(0, warm / 60, color="0.93", label="warm-up")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small", frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
