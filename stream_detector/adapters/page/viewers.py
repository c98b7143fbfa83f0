"""Who looks at the live page now: each with a place for one message, so that nobody's slowness piles up."""

from __future__ import annotations

import threading
from collections.abc import Iterator

CLIENTS = 16  # streams that are open at a time
BEAT = 5.0  # seconds without news after which a line says that the stream lives


class Viewer:
    """One open stream: the newest message wins, an older one that was not fetched is dropped."""

    def __init__(self, sensor: str) -> None:
        self.sensor = sensor  # that it looks at; empty for none
        self._message: bytes | None = None
        self._closed = False
        self._changed = threading.Condition()

    def offer(self, message: bytes) -> None:
        """Leave a message."""
        with self._changed:
            self._message = message
            self._changed.notify()

    def close(self) -> None:
        """The stream ends when its message is fetched."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def stream(self, beat: float = BEAT) -> Iterator[bytes]:
        """Messages as they come, as server-sent events."""
        yield b"retry: 1000\n\n"
        while True:
            with self._changed:
                if self._message is None and not self._closed:
                    self._changed.wait(beat)
                message, self._message = self._message, None
                closed = self._closed
            if message is not None:
                yield b"data: " + message + b"\n\n"  # JSON holds no line feed
            elif closed:
                return
            else:
                yield b": still here\n\n"


class Viewers:
    """Those whose streams are open."""

    def __init__(self, most: int = CLIENTS) -> None:
        self.most = most
        self._open: set[Viewer] = set()
        self._closed = False
        self._lock = threading.Lock()

    def enter(self, sensor: str) -> Viewer | None:
        """A new viewer, or None if there are too many."""
        with self._lock:
            if self._closed or len(self._open) >= self.most:
                return None
            viewer = Viewer(sensor)
            self._open.add(viewer)
            return viewer

    def leave(self, viewer: Viewer) -> None:
        """Its stream is over."""
        with self._lock:
            self._open.discard(viewer)

    def now(self) -> list[Viewer]:
        """All of them."""
        with self._lock:
            return list(self._open)

    def close(self) -> None:
        """Let all streams end, and none begin."""
        with self._lock:
            self._closed = True
        for viewer in self.now():
            viewer.close()
