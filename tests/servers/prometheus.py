"""A real Prometheus. `make servers` fetches it where the machine has none."""

from __future__ import annotations

from typing import Any

from tests.servers.web import WebServer


class Prometheus(WebServer):
    """``config`` is the text of prometheus.yml."""

    def __init__(self, config: str) -> None:
        super().__init__(["prometheus"], config)
        self._options = [f"--storage.tsdb.path={self.folder / 'data'}"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector that the expression gives now."""
        found: list[dict[str, Any]] = self.get("/api/v1/query", query=expression)["data"]["result"]
        return found

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """A matrix; times in seconds."""
        span = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:g}"}
        found: list[dict[str, Any]] = self.get("/api/v1/query_range", query=expression, **span)["data"]["result"]
        return found
