"""A real HTTP server that receives webhooks: slow, flaky, hanging up, redirecting, whatever its script says."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes
    at: float  # time.monotonic

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    after: float = 0.0  # seconds before it answers
    hang_up: bool = False  # reset the connection instead
    drip: float = 0.0  # seconds between the bytes of the answer


Script = Callable[[Request, int], Answer]
"""What to answer to a request that is the how-manyth with its id, from 0."""


class Receiver:
    """Listens on loopback; keeps every request that came whole."""

    def __init__(self, script: Script = lambda request, seen: Answer(), context: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.accepted: list[Request] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port: int = self.server.server_address[1]
        self.url = f"{'http' if context is None else 'https'}://127.0.0.1:{self.port}/hook?key=geheim"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self.server.shutdown()
        self.server.server_close()

    def ids(self, accepted: bool = True) -> list[str]:
        """Of what was accepted, or of all that came."""
        with self._lock:
            return [request.id for request in (self.accepted if accepted else self.requests)]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["content-length"] or 0)
                body = self.rfile.read(length)
                if len(body) < length:  # killed between headers and body: no request
                    self.close_connection = True
                    return
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.path, headers, body, time.monotonic())
                with receiver._lock:
                    seen = sum(one.headers.get("webhook-id") == headers.get("webhook-id") for one in receiver.requests)
                    receiver.requests.append(request)
                receiver._answer(self, request, receiver.script(request, seen))

            do_GET = do_POST  # noqa: N815 - the name is http.server's

            def log_message(self, format: str, *args: Any) -> None:  # the name is http.server's
                """Say nothing."""

        return Handler

    def _answer(self, handler: BaseHTTPRequestHandler, request: Request, answer: Answer) -> None:
        if answer.after:
            self._over.wait(answer.after)
        if answer.hang_up:
            linger = struct.pack("ii", 1, 0)  # a reset, not an orderly end
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            handler.connection.close()
            return
        if 200 <= answer.status < 300:
            with self._lock:
                self.accepted.append(request)
        lines = [f"HTTP/1.1 {answer.status} Said", *(f"{name}: {value}" for name, value in answer.headers.items())]
        lines += [f"Content-Length: {len(answer.body)}", "Connection: close", "", ""]
        told = "\r\n".join(lines).encode() + answer.body
        try:
            if not answer.drip:
                handler.wfile.write(told)
            for byte in told if answer.drip else b"":
                handler.wfile.write(bytes([byte]))
                if self._over.wait(answer.drip):
                    return
        except OSError:
            return  # the sender gave up
