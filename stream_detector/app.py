"""The composition root: settings → adapters → pipeline; start-up, main loop, shutdown, signals."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from stream_detector.adapters.file import EMBEDDINGS, OUTPUTS, POSITION, FileOutlet, FileSource
from stream_detector.adapters.html import write_report
from stream_detector.adapters.kafka import KafkaOutlet, KafkaSource
from stream_detector.adapters.keras import KerasScorer
from stream_detector.adapters.memory import MemoryStore, Silent
from stream_detector.adapters.observers import Observers
from stream_detector.adapters.page import Listener
from stream_detector.adapters.prometheus import PrometheusObserver, Server
from stream_detector.adapters.recorder import Recorder
from stream_detector.adapters.redis import RedisStore
from stream_detector.bundle import Bundle
from stream_detector.codec import Decoder
from stream_detector.configured import bounded, heartbeats_of, model_of, rules_of
from stream_detector.errors import DataError, Fenced, Refused, Unavailable
from stream_detector.events import Alert, Float32, Model, Slice
from stream_detector.pages import Showing, open_page, page_of
from stream_detector.pipeline import Pipeline
from stream_detector.ports import Delivery
from stream_detector.reload import Judging, Reload
from stream_detector.settings import Settings

log = logging.getLogger(__name__)

STALLED = 120.0  # seconds without a turn of the loop after which it is not alive; waiting out transactions takes less
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0  # seconds between attempts while a server is away


class Service:
    """A pipeline that runs until it is told to stop, its source ends, or something is wrong for good."""

    def __init__(
        self,
        pipeline: Pipeline,
        scorer: KerasScorer,
        *,
        reload: Reload | None = None,
        served: Callable[[Model], None] = lambda model: None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``served`` is told of another model that judges from now on, which ``reload`` made ready."""
        self.pipeline, self.scorer, self.now, self.sleep = pipeline, scorer, now, sleep
        self.reload, self.served = reload, served
        self.stopped_by: int | None = None  # the signal
        self.trouble: str | None = "starting"
        self.last_turn = now()

    def run(self) -> int:
        """Exit code: 0 at the end of the source, 128 + signal if stopped by one. Errors pass through."""
        try:
            self.start()
            self.loop()
        finally:
            self.shut()
        return 0 if self.stopped_by is None else 128 + self.stopped_by

    def start(self) -> None:
        """Compile the model, then join: what is assigned is scored at once."""
        self.scorer.load()
        self.scorer.warm()
        # Half a million objects of TensorFlow's stay for good: without this, each full collection looks at them all.
        gc.collect()
        gc.freeze()
        self.pipeline.source.open(self.pipeline)
        self.pipeline.outlet.open()
        if self.reload is not None:
            self.reload.start()
        self.trouble, self.last_turn = None, self.now()
        self.pipeline.observer.started(self.scorer.device)
        log.info("started: model %s %s is warm", self.pipeline.model.name, self.pipeline.model.version)

    def loop(self) -> None:
        """Turn until stopped or finished; wait and start over while a server is away."""
        pause = FIRST_PAUSE
        while self.stopped_by is None and not self.finished:
            try:
                if self.trouble is not None:
                    # With a new producer. The source is left alone: polling it joins again by itself.
                    self.pipeline.outlet.open()
                self._take_model()
                self.pipeline.turn()
                pause, self.trouble, self.last_turn = FIRST_PAUSE, None, self.now()
            except (Unavailable, Fenced) as error:
                if isinstance(error, Fenced) and self.pipeline.settings.delivery.fenced == "exit":
                    raise Refused(f'{error}; another worker has taken over, and delivery.fenced = "exit"') from error
                log.warning("%s; trying again in %.1f s", error, pause)
                self.trouble, self.last_turn = str(error), self.now()
                self.pipeline.observer.interrupted("fenced" if isinstance(error, Fenced) else "unavailable")
                self.pipeline.reset()
                self._wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _take_model(self) -> None:
        ready = None if self.reload is None else self.reload.take()
        if ready is not None:
            self.pipeline.judge_by(ready.scorer, ready.model, ready.rules, ready.settings, ready.heartbeats)
            self.served(ready.model)
            log.info("model %s %s judges from here on", ready.model.name, ready.model.version)

    def shut(self) -> None:
        """Publish what is in flight, leave the group. After a failure the next owner does the former."""
        if self.reload is not None:
            self.reload.close()
        try:
            if self.trouble is None:
                self.pipeline.drain()
        except (Unavailable, Fenced) as error:
            log.warning("%s; what was in flight is left to the next worker", error)
        finally:
            self.pipeline.close()

    @property
    def finished(self) -> bool:
        """Whether the source has ended and everything of it is published."""
        pipeline = self.pipeline
        done = pipeline.source.finished and pipeline.flight is None and not pipeline.waiting
        return done and self.trouble is None  # else the last delivery may have failed

    def live(self) -> bool:
        """Whether the loop turns."""
        return self.trouble == "starting" or self.now() - self.last_turn < STALLED

    def ready(self) -> tuple[bool, str]:
        """Whether events would be scored now, and if not, why."""
        if self.trouble is not None:
            return False, self.trouble
        if not self.pipeline.owned:
            return False, "no partitions assigned"
        return True, f"{len(self.pipeline.owned)} partitions assigned"

    def spare(self) -> bool:
        """Whether all is well and there is nothing to do: more workers than partitions."""
        return self.trouble is None and not self.pipeline.owned and not self.pipeline.waiting

    def stop(self, number: int, frame: FrameType | None = None) -> None:
        """A signal handler: the first signal sets a flag, the second ends the process at once."""
        if self.stopped_by is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.stopped_by = number

    def _wait(self, seconds: float) -> None:
        """Meanwhile stay in the group: who does not poll for minutes is thrown out."""
        until = self.now() + seconds
        while self.stopped_by is None and self.now() < until:
            with suppress(Unavailable, Fenced):  # told already, or will be
                self.pipeline.idle(0)
            self.sleep(0.05)


class RecordingObserver(Silent):
    """Takes down what was published, and tells of alerts as they come."""

    def __init__(self, recorder: Recorder, heard: Callable[[Alert], None]) -> None:
        self.recorder, self.heard = recorder, heard

    def read(self, batch: Sequence[Slice]) -> None:
        """See `ports.Observer.read`."""
        self.recorder.read(batch)

    def delivered(self, delivery: Delivery, latency_ms: Sequence[float] | Float32) -> None:
        """See `ports.Observer.delivered`."""
        self.recorder.delivered(delivery)
        for alert in delivery.alerts:
            self.heard(alert)


def run_service(asked: Settings, bundle: Bundle, location: str | None = None) -> int:
    """`stream-detector run` in one process; other bundles at ``location`` take over as they come."""
    settings = bounded(asked, bundle.manifest)
    model = model_of(bundle.manifest)
    port = settings.metrics
    metrics = PrometheusObserver(
        model, time.time, bundle.manifest.features, worst=port.worst_sensors, firing=port.firing_sensors
    )
    listener = Listener() if settings.page.enabled else None
    observer = metrics if listener is None else Observers(metrics, listener)
    decoder = Decoder(bundle.manifest.features, settings.columns, settings.events)
    source = KafkaSource(settings, decoder, took=observer.took)
    scorer = KerasScorer(
        bundle, settings.device.max_batch_windows, settings.publish.embeddings, expecting=listener is not None
    )
    pipeline = Pipeline(
        source,
        RedisStore(settings.redis, str(settings.kafka.group_id)),
        scorer,
        KafkaOutlet(settings, source),
        observer,
        rules_of(bundle.manifest, settings),
        model,
        settings,
        heartbeats=heartbeats_of(bundle.manifest, settings),
    )
    reload = None
    if location is not None and asked.bundle.reload != "off":

        def prepare(found: Bundle) -> Judging:
            own = bounded(asked, found.manifest)
            other = KerasScorer(
                found, own.device.max_batch_windows, own.publish.embeddings, expecting=listener is not None
            )
            other.load()
            other.warm()
            manifest = found.manifest
            return Judging(other, model_of(manifest), rules_of(manifest, own), own, heartbeats_of(manifest, own))

        every = asked.bundle.reload / 1_000
        told = metrics.reload_failed, metrics.reload_recovered
        reload = Reload(location, model.version, pipeline.rules, prepare, *told, every)
        signal.signal(signal.SIGHUP, lambda number, frame: reload.wake())
    service = Service(pipeline, scorer, reload=reload, served=metrics.serving)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, service.stop)
    server: Server = metrics.serve(port.host, port.port, service.live, service.ready, port, spare=service.spare)
    page = None if listener is None else page_of(pipeline, listener, service.ready)
    try:
        if page is not None:
            open_page(page, Showing(settings.page, lambda address: log.info("the live page is at %s", address)))
        pipeline.store.ping()
        return service.run()
    finally:
        if page is not None:
            page.close()
        server.close()


def replay(
    paths: Sequence[str | Path],
    bundle: Bundle,
    settings: Settings,
    out: Path,
    *,
    names: Sequence[str] | None = None,
    period: int | None = None,
    speed: float | None = None,
    heard: Callable[[Alert], None] = lambda alert: None,
    done: Callable[[Recorder], None] = lambda recorder: None,
    showing: Showing | None = None,
) -> Recorder:
    """Files through the same pipeline, without a server; results and ``report.html`` in the folder ``out``.

    A replay starts anew each time: results of an earlier one in ``out`` are replaced. ``done`` is told when all is
    written; a live page may go on being shown after that.
    """
    settings = bounded(settings, bundle.manifest)
    decoder = Decoder(bundle.manifest.features, settings.columns, settings.events)
    recorder = Recorder(bundle.manifest.features)
    source = FileSource(paths, decoder, names=names, period=period, batch=settings.poll.max_records, speed=speed)
    scorer = KerasScorer(bundle, settings.device.max_batch_windows, settings.publish.embeddings)
    try:
        for name in (POSITION, *OUTPUTS, EMBEDDINGS):
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{out}: {error.strerror or error}; give a folder to write to") from error
    outlet = FileOutlet(out, embeddings=settings.publish.embeddings)
    recording, listener = RecordingObserver(recorder, heard), None if showing is None else Listener()
    pipeline = Pipeline(
        source,
        MemoryStore(),
        scorer,
        outlet,
        recording if listener is None else Observers(recording, listener),
        rules_of(bundle.manifest, settings),
        model_of(bundle.manifest),
        settings,
    )
    service = Service(pipeline, scorer)
    before = {number: signal.signal(number, service.stop) for number in (signal.SIGINT, signal.SIGTERM)}
    ended = threading.Event()
    page = None if listener is None else page_of(pipeline, listener, lambda: _stage(service, ended.is_set()))
    try:
        if page is not None and showing is not None:
            open_page(page, showing)
        code = service.run()
        ended.set()
        write_report(out / "report.html", recorder)
        if code:  # stopped by a signal: the report shows how far it came
            sys.exit(code)
        done(recorder)
        while showing is not None and showing.stay and service.stopped_by is None:
            time.sleep(0.1)  # a signal's handler runs in between
    finally:
        if page is not None:
            page.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    return recorder


def _stage(service: Service, ended: bool) -> tuple[bool, str]:
    """How far a replay is, for its page; ``ended`` when all is published."""
    well, words = service.ready()
    return well, ("the replay has ended" if ended else "replaying") if well else words
