"""A real Alertmanager. `make servers` fetches it where the machine has none."""

from __future__ import annotations

from tests.servers.web import FETCHED, WebServer


class Alertmanager(WebServer):
    """``config`` is the text of alertmanager.yml."""

    def __init__(self, config: str) -> None:
        super().__init__(["alertmanager", "prometheus-alertmanager"], config)
        # Without a cluster address: it would look for others on every interface.
        self._options = [f"--storage.path={self.folder / 'data'}", "--cluster.listen-address="]
        templates = FETCHED / "share" / "prometheus" / "alertmanager"
        self._start_in = templates if templates.exists() else None  # see monitoring.sh
