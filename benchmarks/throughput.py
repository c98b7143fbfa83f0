"""How fast the service is, next to named peers, in one run: ``python -m benchmarks.throughput`` (`make throughput`).

One topic of synthetic events, one machine that everything shares: compare ratios and CPU seconds, not events a second.

- the bare poll loop of kafka-python, which is the floor of any service on that client; and with our decoder behind it
- the service (``stream-detector run``) from readiness to lag 0, with tumbling windows and with an eighth as stride;
  all scores published, exactly once. Where its time goes, by its own metrics; what it asks of Redis and of Kafka.
- the scorer alone, next to ``keras.predict``
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import redis
from kafka import KafkaProducer
from rich.console import Console
from rich.table import Table

from benchmarks.service import Service, read_committed, reading, run_command
from stream_detector.adapters.kafka.client import CONSUMER, SHARED
from stream_detector.codec import Decoder, Raw
from stream_detector.events import Float32
from stream_detector.settings import Columns, EventRules
from stream_detector.timestamps import rfc3339
from tests.servers import KafkaBroker, RedisServer

FEATURES = tuple(f"f{number}" for number in range(8))
LENGTH = 64
STRIDES = (64, 8)
EVENTS, QUICK = 300_000, 40_000
EACH = 300  # events a sensor, so that windows fill several times
SENSORS = 1_000
PARTITIONS = 4
BATCH = 1_024
START = 1_795_168_800_000  # epoch ms of the first event; sensors send once a second
TRAINED = 20, 1_000  # sensors and rows to train on: enough for thresholds, not more
ROUNDS = 3
SECONDS = 2.0  # that each way of scoring is run in each round
SERVICE_SECONDS = 540.0
ASKED = ("Fetch", "Produce", "AddPartitionsToTxn", "AddOffsetsToTxn", "TxnOffsetCommit", "EndTxn", "Heartbeat")
console = Console(width=None if sys.stdout.isatty() else 120)


@dataclass(frozen=True, slots=True)
class Polled:
    """One pass of a bare loop over the topic."""

    events: int
    seconds: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Served:
    """One pass of the service over the topic, from readiness to lag 0."""

    stride: int
    events: int
    windows: int
    deliveries: int
    start: float  # seconds from the command to readiness: imports, compilation, joining the group
    seconds: float
    cpu: float
    peak_rss: int  # bytes
    stages: dict[str, float]  # seconds in each
    kafka: dict[str, int]  # requests by kind, of the process' whole life
    redis: dict[str, int]  # commands by name, those inside of scripts among them
    scores: int  # records that a read_committed consumer sees
    alerts: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 if the service failed or lost something."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=str(__doc__).partition(":")[0])
    parser.add_argument("--events", type=int, default=EVENTS, metavar="N", help=f"on the topic ({EVENTS})")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} events: whether it works, not how fast it is")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    given = parser.parse_args(arguments)
    events = QUICK if given.quick else given.events
    if events < LENGTH:
        parser.error(f"--events {events}: give {LENGTH} or more, or no window fills")
    with tempfile.TemporaryDirectory(prefix="benchmark-") as work:
        try:
            found = measure(Path(work), events)
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    report(**found)
    if given.json is not None:
        figures = {name: _plain(value) for name, value in found.items()}
        given.json.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    return 0


def measure(work: Path, events: int) -> dict[str, Any]:
    """Everything that is reported, by the names of `report`'s arguments."""
    bundles = {stride: train(work, stride) for stride in STRIDES}
    bare, decoded, served = [], [], []
    with KafkaBroker(lasting=True) as broker, RedisServer() as server:
        broker.create_topics({"events": PARTITIONS})
        produce(broker.bootstrap, events)
        for stride, bundle in bundles.items():
            bare.append(poll(broker.bootstrap, events))
            decoded.append(poll(broker.bootstrap, events, Decoder(FEATURES, Columns(), EventRules())))
            served.append(serve(work / f"stride-{stride}", broker, server, stride, bundle, events))
        bare.append(poll(broker.bootstrap, events))
    return {"bare": bare, "decoded": decoded, "served": served, "scoring": score(bundles[STRIDES[0]])}


def readings(sensors: int, rows: int, seed: int) -> Float32:
    """What sensors measure, (rows, sensors, F): slow waves of their own phase, and noise."""
    rng = np.random.default_rng(seed)
    phase, period = rng.uniform(0, 2 * np.pi, (sensors, len(FEATURES))), rng.uniform(20, 60, len(FEATURES))
    angle = 2 * np.pi * np.arange(rows)[:, None, None] / period + phase
    values: Float32 = (np.sin(angle) + rng.normal(0, 0.1, angle.shape)).astype(np.float32).round(4)
    return values


def sensor_id(sensor: int) -> str:
    """A sensor's id."""
    return f"sensor-{sensor:04}"


def train(work: Path, stride: int) -> Path:
    """A bundle for windows of this stride: one epoch, since only its speed is looked at."""
    file, bundle = work / "training.csv", work / f"bundle-{stride}"
    sensors, rows = TRAINED
    lines = [",".join(("sensor_id", "timestamp", *FEATURES))]
    for row, values in enumerate(readings(sensors, rows, 1).tolist()):
        stamp = rfc3339(START - (rows - row) * 1_000)
        for at, some in enumerate(values):
            lines.append(",".join((sensor_id(at), stamp, *(f"{value:.4f}" for value in some))))
    file.write_text("\n".join(lines) + "\n", "utf-8")
    size = ("--window", str(LENGTH), "--stride", str(stride), "--epochs", "1")
    run_command("train", str(file), "--out", str(bundle), *size, log=work / "train.log")
    return bundle


def messages(events: int) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each event; sensors take turns."""
    sensors = max(1, min(SENSORS, events // EACH))
    left = events
    for row, values in enumerate(readings(sensors, -(-events // sensors), 2).astype(np.float64).round(4).tolist()):
        for at, some in enumerate(values[:left]):
            measured = dict(zip(FEATURES, some, strict=True))
            event = {"sensor_id": sensor_id(at), "timestamp": START + row * 1_000, "values": measured}
            yield sensor_id(at).encode(), json.dumps(event, separators=(",", ":")).encode()
        left -= len(values)


def produce(bootstrap: str, events: int) -> None:
    """Fill the topic; not measured."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=20, batch_size=256 * 1024)
    for key, value in messages(events):
        producer.send("events", value, key)
    producer.close()


def poll(bootstrap: str, events: int, decoder: Decoder | None = None) -> Polled:
    """Read the topic to its end and do nothing else; with the options of the service's own consumer."""
    with reading(bootstrap, "events", max_poll_records=10_000, **CONSUMER, **SHARED) as consumer:
        started, cpu, seen = time.perf_counter(), time.process_time(), 0
        while seen < events:
            for records in consumer.poll(timeout_ms=500).values():
                seen += len(records)
                if decoder is not None:
                    decoder.decode([Raw(one.offset, one.timestamp, one.key, one.value) for one in records])
        return Polled(seen, time.perf_counter() - started, time.process_time() - cpu)


def serve(folder: Path, broker: KafkaBroker, server: RedisServer, stride: int, bundle: Path, events: int) -> Served:
    """One pass of the service in a group and with result topics of its own."""
    server.flush()
    group = f"stride-{stride}"
    results = {name: f"{group}-{name}" for name in ("scores", "alerts", "dead_letters")}
    broker.create_topics(dict.fromkeys(results.values(), PARTITIONS))
    settings = {
        "kafka": {"bootstrap_servers": broker.bootstrap, "group_id": group},
        "topics": {"events": "events", **results},
        "redis": {"url": server.url},
        "bundle": {"path": str(bundle)},
        "publish": {"scores": "all"},
    }
    requests = folder / "requests.json"
    with (
        redis.Redis.from_url(server.url) as client,
        Service(folder, settings, ("benchmarks.counted", str(requests))) as service,
    ):
        client.config_resetstat()
        called = time.perf_counter()
        service.wait_ready()
        begun, before, already = time.perf_counter(), service.usage(), stages_of(service)
        service.wait_committed(broker.bootstrap, group, events, SERVICE_SECONDS)
        seconds, after = time.perf_counter() - begun, service.usage()
        metrics, commands = service.metrics(), client.info("commandstats")
        stages = {stage: took - already.get(stage, 0.0) for stage, took in stages_of(service).items()}
        if code := service.stop() - 143:
            raise RuntimeError(f"the service ended with exit code {code + 143}, not 143\n{service.log_tail()}")
    prefix = "stream_detector_"
    scores = len(read_committed(broker.bootstrap, results["scores"]))
    windows = int(metrics[f"{prefix}windows_total", ""])
    if metrics[f"{prefix}events_total", ""] != events or scores != windows:
        accepted = metrics[f"{prefix}events_total", ""]
        raise RuntimeError(f"{accepted:g} of {events} events were accepted, {scores} of {windows} scores published")
    return Served(
        stride,
        events,
        windows,
        int(metrics[f"{prefix}stage_duration_seconds_count", "deliver"]),
        begun - called,
        seconds,
        after.cpu - before.cpu,
        after.peak_rss,
        stages,
        json.loads(requests.read_text()),
        {name.removeprefix("cmdstat_"): int(about["calls"]) for name, about in commands.items()},
        scores,
        len(read_committed(broker.bootstrap, results["alerts"])),
    )


def stages_of(service: Service) -> dict[str, float]:
    """Seconds in each stage since the service started."""
    sums = service.metrics().items()
    return {label: value for (name, label), value in sums if name == "stream_detector_stage_duration_seconds_sum"}


def score(bundle: Path) -> dict[str, list[float]]:
    """Windows per second, by way of scoring and round; each way has its turn in each round."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported, which talks at length otherwise
    from stream_detector.adapters.keras.scorer import KerasScorer, load_model
    from stream_detector.bundle import load_bundle

    loaded = load_bundle(bundle)
    scorer = KerasScorer(loaded, BATCH)
    scorer.load()
    scorer.warm()
    model = load_model(loaded)
    windows = np.ascontiguousarray(readings(BATCH, LENGTH, 3).transpose(1, 0, 2))  # (n, W, F)
    names = [sensor_id(at) for at in range(BATCH)]
    ways: dict[str, Callable[[], int]] = {
        f"the scorer, {BATCH} a batch": lambda: len(scorer.score(names, windows).score),
        f"keras.predict, {BATCH} a batch": lambda: len(model.predict(windows, batch_size=BATCH, verbose=0)),
        "keras.predict, one at a time": lambda: len(model.predict(windows[:1], verbose=0)),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()  # compiles
    for _ in range(ROUNDS):
        for name, way in ways.items():
            done, started = 0, time.perf_counter()
            while (passed := time.perf_counter() - started) < SECONDS:
                done += way()
            found[name].append(done / passed)
    return found


def report(bare: list[Polled], decoded: list[Polled], served: list[Served], scoring: dict[str, list[float]]) -> None:
    """Print it."""
    floor = middle(bare)
    base, cpu = floor.events / floor.seconds, floor.cpu / floor.events * 1e6
    table = Table(title=f"{served[0].events:,} events of {len(FEATURES)} features, {PARTITIONS} partitions, W {LENGTH}")
    table.add_column("one process")
    for name in ("seconds", "events/s", "of the bare loop", "CPU s per million", "of the bare loop", "peak RSS"):
        table.add_column(name, justify="right")

    def line(name: str, events: int, seconds: float, used: float, rss: str = "") -> None:
        rate, each = events / seconds, used / events * 1e6
        share, cost = f"{rate / base:.2f} ×", f"{each / cpu:.2f} ×"
        table.add_row(name, f"{seconds:.1f}", f"{rate:,.0f}", share, f"{each:.1f}", cost, rss)

    for name, some in (("kafka-python poll, bare", bare), ("… with the service's decoder", decoded)):
        typical = middle(some)
        line(f"{name} (median of {len(some)})", typical.events, typical.seconds, typical.cpu)
    for one in served:
        name = f"the service, stride {one.stride}: {one.windows:,} windows"
        line(name, one.events, one.seconds, one.cpu, f"{one.peak_rss / 2**20:,.0f} MiB")
    console.print(table)

    stages = Table(
        title="The service's stages, seconds by its own metrics (decode is part of poll, compute runs beside)"
    )
    stages.add_column("")
    names = list(dict.fromkeys(name for one in served for name in one.stages))
    for name in (*names, "poll to settle", "wall", "start-up"):
        stages.add_column(name, justify="right")
    for one in served:
        alone = sum(seconds for name, seconds in one.stages.items() if name not in ("decode", "compute", "queue"))
        row = [f"{one.stages.get(name, 0.0):.2f}" for name in names]
        stages.add_row(f"stride {one.stride}", *row, f"{alone:.2f}", f"{one.seconds:.2f}", f"{one.start:.1f}")
    console.print(stages)

    asked = Table(title="What the service asks of Kafka and Redis: nothing is per event")
    asked.add_column("")
    for one in served:
        asked.add_column(f"stride {one.stride}", justify="right")
        asked.add_column("per 1,000 events", justify="right")
    rows: list[tuple[str, Callable[[Served], int]]] = [
        ("deliveries (transactions)", lambda one: one.deliveries),
        *((f"Kafka: {kind}", lambda one, kind=kind: one.kafka.get(kind, 0)) for kind in ASKED),
        ("Redis: calls of scripts", lambda one: one.redis.get("evalsha", 0)),
        ("Redis: commands inside of scripts", _inside),
        ("scores published", lambda one: one.scores),
        ("alert records published", lambda one: one.alerts),
    ]
    for name, count in rows:
        cells = [cell for one in served for cell in (f"{count(one):,}", f"{1_000 * count(one) / one.events:.3f}")]
        asked.add_row(name, *cells)
    console.print(asked)

    ways = Table(title=f"Windows of {LENGTH} × {len(FEATURES)} per second, the model alone (median of {ROUNDS})")
    ways.add_column("way")
    ways.add_column("windows/s", justify="right")
    ways.add_column("the scorer is", justify="right")
    first = statistics.median(next(iter(scoring.values())))
    for name, rates in scoring.items():
        rate = statistics.median(rates)
        ways.add_row(name, f"{rate:,.0f}", "" if rate == first else f"{first / rate:,.1f} × as fast")
    console.print(ways)


def middle(some: list[Polled]) -> Polled:
    """The pass of median duration."""
    return sorted(some, key=lambda one: one.seconds)[len(some) // 2]


def _inside(one: Served) -> int:
    """Commands on data: by the sensors of a batch, and only inside of scripts."""
    data = ("append", "getrange", "set", "hset", "hmget", "hdel", "hexists", "rpush", "lpop", "lindex", "unlink")
    return sum(one.redis.get(name, 0) for name in data)


def _plain(value: Any) -> Any:
    return [asdict(one) for one in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
