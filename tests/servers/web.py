"""A server that is told by a settings file and answers JSON over HTTP: Prometheus or Alertmanager."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.servers.process import Process, Running, free_port, new_folder

FETCHED = Path(__file__).parents[2] / ".servers" / "monitoring" / "usr"


class WebServer(Running):
    """One server; its data are gone when the context ends. ``programs`` are the names that it goes by."""

    def __init__(self, programs: Sequence[str], config: str, options: Sequence[str] = ()) -> None:
        self.folder = new_folder(programs[0])
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.config = config  # the text of its settings file
        self._programs, self._options = programs, options
        self._start_in: Path | None = None
        self._process = Process(programs[0], self.folder / "server.log")

    def start(self) -> None:
        program, path = tool(*self._programs), self.folder / "config.yml"
        self.folder.mkdir(mode=0o700, exist_ok=True)
        path.write_text(self.config)
        own = [f"--config.file={path}", f"--web.listen-address=127.0.0.1:{self.port}"]
        self._process.start([program, *own, *self._options], self._answers, self._start_in)

    def close(self) -> None:
        """End it and remove its data."""
        try:
            self._process.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def get(self, path: str, **parameters: str) -> Any:
        """What it answers, as JSON; a `RuntimeError` with its message where it says no."""
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        try:
            with urllib.request.urlopen(f"{self.url}{path}{query}", timeout=20) as answer:  # noqa: S310 # http on loopback
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{path}{query}: {error.read().decode(errors='replace')}") from error

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2) as answer:  # noqa: S310 # likewise
                return bool(answer.status == 200)
        except OSError:
            return False


def tool(*names: str) -> str:
    """The program of the first of these names that is there, on PATH or fetched."""
    for name in names:
        path = shutil.which(name) or shutil.which(name, path=str(FETCHED / "bin"))
        if path is not None:
            return path
    raise RuntimeError(f"{names[0]} is neither on PATH nor in {FETCHED}/bin: run `make servers`")
