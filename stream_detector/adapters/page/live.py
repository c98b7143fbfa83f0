"""The live page: a thread that takes what the pipeline told and sends it to whoever looks."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from stream_detector.adapters.http import Server, guarded, listen
from stream_detector.adapters.page import view
from stream_detector.adapters.page.board import Board, Expect, Scored, Seen
from stream_detector.adapters.page.listener import Listener
from stream_detector.adapters.page.site import site
from stream_detector.adapters.page.viewers import Viewers
from stream_detector.events import Model
from stream_detector.settings import Page
from stream_detector.text import visible

log = logging.getLogger(__name__)

TICK = 0.25  # seconds between two looks into the inbox
NEWS = 0.5  # seconds between two messages to a viewer
ASKED = 1.0  # seconds between two questions to the model, of all viewers together
OVER = 10.0  # seconds over which rates are taken


class LivePage:
    """The page while it is open. ``state`` says whether all is well, and in words how things are."""

    def __init__(
        self,
        listener: Listener,
        board: Board,
        models: Callable[[], Iterable[Model]],
        *,
        state: Callable[[], tuple[bool, str]],
        expect: Expect,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.listener, self.board, self.models = listener, board, models
        self.state, self.expect, self.clock = state, expect, clock
        self.viewers = Viewers()
        self._history: deque[tuple[float, int, int]] = deque()  # clock, events, windows
        self._told = self._asked = -1e9
        self._turn = 0  # whose turn it is to have the model asked
        self._server: Server | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="page", daemon=True)

    def open(self, access: Page) -> str:
        """Listen and begin; the page's address. Raises `SettingsError` like `http.listen`."""
        application = guarded(site(self.viewers, access), access)
        self._server = listen(access.host, access.port, application, access, "page")
        self._thread.start()
        scheme = "https" if access.tls_cert_file is not None else "http"
        host = f"[{access.host}]" if ":" in access.host else access.host
        return f"{scheme}://{host}:{self._server.port}/"

    def close(self) -> None:
        """Let the streams end, and stop; safe to call twice."""
        self._stop.set()
        self.viewers.close()
        if self._server is not None:
            self._server.close()
            self._thread.join(5.0)
            self._server = None

    def turn(self) -> None:
        """Take what waits, ask the model if anybody looks at a sensor, send what is new."""
        board, now = self.board, self.clock()
        state = self.state()  # before what it is about: where all is over, nothing of it is still to come
        for fact in self.listener.inbox.drain():
            if isinstance(fact, Seen):
                board.read(fact)
            elif isinstance(fact, Scored):
                board.scored(fact)
            else:
                board.told(fact.alerts)
                board.stand(fact.states)
        viewers = self.viewers.now()
        board.watch({viewer.sensor for viewer in viewers if viewer.sensor})
        self.listener.follow([*board.tracks, *board.firing], board.room)
        standing = self.listener.standing
        self._history.append((now, standing.events, standing.windows))
        while len(self._history) > 2 and self._history[1][0] <= now - OVER:
            self._history.popleft()
        if viewers:
            if board.watched and now - self._asked >= ASKED:
                self._asked = now
                self._ask()
            if now - self._told >= NEWS:
                self._told = now
                self._send(state)

    def _run(self) -> None:
        while not self._stop.wait(TICK):
            try:
                self.turn()
            except Exception:  # the page must not end, and the detection does not depend on it
                log.exception("the live page had trouble")
                self._stop.wait(ASKED)

    def _ask(self) -> None:
        """About one sensor, each in its turn."""
        sensors = sorted(self.board.watched)
        for step in range(len(sensors)):
            sensor = sensors[(self._turn + step) % len(sensors)]
            if self.board.reconstruct(sensor, self.expect):
                self._turn += step + 1
                return

    def _send(self, state: tuple[bool, str]) -> None:
        """To each viewer what it looks at: one message holds all of it, so that one that is lost is no loss."""
        board = self.board
        about = msgspec.json.encode(self._about(*state))
        overview: bytes | None = None
        sensors: dict[str, bytes] = {}
        for viewer in self.viewers.now():
            if overview is None:
                overview = msgspec.json.encode({"alerts": view.firing(board), "fleet": view.fleet(board)})
            if viewer.sensor not in sensors:
                of = view.sensor(board, viewer.sensor) if viewer.sensor else None
                sensors[viewer.sensor] = msgspec.json.encode(of)
            message = b'{"about":%b,"overview":%b,"sensor":%b}' % (about, overview, sensors[viewer.sensor])
            viewer.offer(message)

    def _about(self, ready: bool, words: str) -> dict[str, Any]:
        standing, board = self.listener.standing, self.board
        first, last = self._history[0], self._history[-1]
        span = last[0] - first[0]
        batch = dict(standing.batch)  # a copy: the pipeline's thread writes
        return {
            "ready": ready,
            "state": visible(words),
            "model": view.shown(", ".join(f"{model.name} {model.version}" for model in self.models())),
            "events": standing.events,
            "windows": standing.windows,
            "rejects": standing.rejects,
            "events_per_second": (last[1] - first[1]) / span if span > 0 else None,
            "windows_per_second": (last[2] - first[2]) / span if span > 0 else None,
            "lag": standing.lag,
            "sensors": standing.sensors,
            "partitions": standing.partitions,
            "batch_ms": 1_000
            * sum(batch.get(stage, 0.0) for stage in ("append", "queue", "compute", "deliver", "settle")),
            "newest": standing.newest,
            "dropped": self.listener.inbox.dropped,
            "firing": len(board.alerts) + sum(not alerts for alerts in board.firing.values()),
            "unknown": sum(not alerts for alerts in board.firing.values()),  # whose alerts came before the page
        }
