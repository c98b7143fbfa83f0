"""The composition root: settings → adapters → pipeline; start-up, main loop, shutdown, signals."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

from stream_detector.adapters.files.outlet import EMBEDDINGS, OUTPUTS, POSITION, FileOutlet
from stream_detector.adapters.files.source import FileSource
from stream_detector.adapters.kafka import KafkaOutlet, KafkaSource
from stream_detector.adapters.keras.scorer import KerasScorer
from stream_detector.adapters.memory import MemoryStore, Silent
from stream_detector.adapters.observers import Observers
from stream_detector.adapters.page import Listener
from stream_detector.adapters.pictures.recorder import Recorder
from stream_detector.adapters.pictures.report import write_report
from stream_detector.adapters.prometheus.observer import PrometheusObserver, Server
from stream_detector.adapters.redis.store import RedisStore
from stream_detector.bundle import Bundle
from stream_detector.codec import Decoder
from stream_detector.configured import bounded, heartbeats_of, learner_of, locations, model_of, rules_of
from stream_detector.criteria import grouping_of
from stream_detector.errors import DataError, Fenced, Refused, Unavailable
from stream_detector.events import Alert, Float32, Model, Slice
from stream_detector.groups import Grouped
from stream_detector.judging import Judge
from stream_detector.pages import Showing, open_page, page_of
from stream_detector.pipeline import Pipeline
from stream_detector.ports import Delivery, Scorer
from stream_detector.reload import Reload
from stream_detector.settings import Settings

log = logging.getLogger(__name__)

STALLED = 120.0  # seconds without a turn of the loop after which it is not alive; waiting out transactions takes less
NONE: Mapping[str, Bundle] = {}  # no group of sensors has one of its own
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0  # seconds between attempts while a server is away


class Service:
    """A pipeline that runs until it is told to stop, its source ends, or something is wrong for good."""

    def __init__(
        self,
        pipeline: Pipeline,
        scorer: Scorer,
        *,
        reload: Reload | None = None,
        served: Callable[[Mapping[str, Model]], None] = lambda models: None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``served`` is told the models that judge by group when ``reload`` has made another one ready."""
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
        for model in self.pipeline.models.things:
            log.info("started: model %s %s is warm", model.name, model.version)

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
            before = self.pipeline.models.named()
            self.pipeline.judge_by(ready)
            now = self.pipeline.models.named()
            self.served(now)
            for group, model in now.items():
                if model != before.get(group):
                    whose = f" sensors of group {group}" if group else ""
                    log.info("model %s %s judges%s from here on", model.name, model.version, whose)

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


def run_service(asked: Settings, bundle: Bundle, location: str | None = None, own: Mapping[str, Bundle] = NONE) -> int:
    """`stream-detector run` in one process; ``own`` are bundles by group of sensors.

    Other bundles at ``location``, and where the groups have theirs, take over as they come.
    """
    port = asked.metrics
    listener = Listener() if asked.page.enabled else None
    judges = _judges(asked, bundle, own)
    common = judges.common
    settings = common.settings
    metrics = PrometheusObserver(
        common.model, time.time, common.rules.features, worst=port.worst_sensors, firing=port.firing_sensors
    )
    metrics.serving({name: judge.model for name, judge in judges.named().items()})
    observer = metrics if listener is None else Observers(metrics, listener)
    decoder = Decoder(common.rules.features, settings.columns, settings.events)
    source = KafkaSource(settings, decoder, took=observer.took)
    store, outlet = RedisStore(settings.redis, str(settings.kafka.group_id)), KafkaOutlet(settings, source)
    pipeline = Pipeline(source, store, common.scorer, outlet, observer, common.rules, common.model, settings)
    pipeline.judge_by(judges)
    reload = None
    if location is not None and asked.bundle.reload != "off":

        def prepare(found: Bundle) -> Judge:
            judge = _judge(asked, found)
            judge.scorer.load()
            judge.scorer.warm()
            return judge

        every = asked.bundle.reload / 1_000
        told = metrics.reload_failed, metrics.reload_recovered
        reload = Reload(locations(asked, location), judges, prepare, *told, every)
        signal.signal(signal.SIGHUP, lambda number, frame: reload.wake())
    service = Service(pipeline, pipeline.scorer, reload=reload, served=metrics.serving)
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


def _judges(asked: Settings, bundle: Bundle, own: Mapping[str, Bundle]) -> Grouped[Judge]:
    """What judges which sensors; ``own`` bundles by group."""
    every = {id(one): one for one in (bundle, *own.values())}
    made = {key: _judge(asked, one) for key, one in every.items()}
    return Grouped(grouping_of(asked), made[id(bundle)], [made[id(own.get(name, bundle))] for name in asked.groups])


def _judge(asked: Settings, bundle: Bundle) -> Judge:
    """What a bundle brings; its model is not loaded yet."""
    manifest = bundle.manifest
    settings = bounded(asked, manifest)
    scorer = KerasScorer(bundle, settings.device.max_batch_windows, settings.publish.embeddings)
    return Judge(
        scorer,
        model_of(manifest),
        rules_of(manifest, settings),
        settings,
        heartbeats_of(manifest, settings),
        learner_of(bundle),
    )


def replay(
    paths: Sequence[str | Path],
    bundle: Bundle,
    settings: Settings,
    out: Path,
    *,
    own: Mapping[str, Bundle] = NONE,
    names: Sequence[str] | None = None,
    period: int | None = None,
    speed: float | None = None,
    heard: Callable[[Alert], None] = lambda alert: None,
    done: Callable[[Recorder], None] = lambda recorder: None,
    showing: Showing | None = None,
) -> Recorder:
    """Files through the same pipeline, without a server; results and ``report.html`` in the folder ``out``.

    ``own`` are bundles by group of sensors. A replay starts anew each time: results of an earlier one in ``out`` are
    replaced. ``done`` is told when all is written; a live page may go on being shown after that.
    """
    judges = _judges(settings, bundle, own).each(lambda judge: replace(judge, heartbeats=None))  # of files that end
    common = judges.common
    settings, features = common.settings, common.rules.features
    decoder, recorder = Decoder(features, settings.columns, settings.events), Recorder(features)
    source = FileSource(paths, decoder, names=names, period=period, batch=settings.poll.max_records, speed=speed)
    try:
        for name in (POSITION, *OUTPUTS, EMBEDDINGS):
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{out}: {error.strerror or error}; give a folder to write to") from error
    outlet = FileOutlet(out, embeddings=settings.publish.embeddings)
    recording, listener = RecordingObserver(recorder, heard), None if showing is None else Listener()
    observer = recording if listener is None else Observers(recording, listener)
    pipeline = Pipeline(source, MemoryStore(), common.scorer, outlet, observer, common.rules, common.model, settings)
    pipeline.judge_by(judges)
    service = Service(pipeline, pipeline.scorer)
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
