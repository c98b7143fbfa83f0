"""The HTTP port: metrics, perhaps for those who know a password, and health for everybody; perhaps over TLS."""

from __future__ import annotations

import base64
import binascii
import errno
import hmac
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from stream_detector.errors import SettingsError
from stream_detector.settings import Access
from stream_detector.tls import Names, context_of

log = logging.getLogger(__name__)

PATIENCE = 10.0  # seconds that a client may be silent


def serve(
    host: str,
    port: int,
    metrics: Callable[..., Any],
    live: Callable[[], bool],
    ready: Callable[[], tuple[bool, str]],
    access: Access,
) -> Server:
    """Metrics and health, from a daemon thread. Raises `SettingsError` like `listen`."""
    return listen(host, port, _application(guarded(metrics, access), live, ready), access, "metrics")


def listen(host: str, port: int, application: WSGIApplication, access: Access, section: str) -> Server:
    """Answer from a daemon thread, with TLS if asked; ``section`` of the settings is named where something is wrong.

    Raises `SettingsError` for a port that is not to be had and for unreadable files.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = type("_Server", (_Server,), {"address_family": family})
    certificate = Certificate(access, section) if access.tls_cert_file is not None else None
    try:
        server = kind((host, port), _Handler)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(
                f"{section}.port: {port} is taken on {host}; set another, or 0 for any free one"
            ) from None
        why = error.strerror or error
        raise SettingsError(f"{section}.host: cannot listen on {host}:{port}: {why}") from None
    server.certificate = certificate
    server.set_app(application)
    return Server(server, section)


class Server:
    """The HTTP port while it is open."""

    def __init__(self, server: WSGIServer, name: str) -> None:
        self._server = server
        self.port: int = server.server_address[1]
        self._thread = threading.Thread(target=server.serve_forever, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering; safe to call twice."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)


class Certificate:
    """The server's certificate as the files hold it now: they are replaced while the service runs."""

    def __init__(self, access: Access, section: str) -> None:
        key = f"{section}.tls_key_file"
        self._names = Names(f"{section}.tls_cert_file", f"{section}.tls_cert_file", key, "")
        self._files = access.tls_cert_file, access.tls_key_file
        self._context = self._read()

    def context(self) -> ssl.SSLContext:
        """Read anew, or as last read where the files are being replaced right now."""
        try:
            self._context = self._read()
        except SettingsError as error:
            log.warning("%s; going on with the certificate from before", error)
        return self._context

    def _read(self) -> ssl.SSLContext:
        certificate, key = self._files
        return context_of(self._names, certificate=certificate, key=key, server=True)


def guarded(application: Callable[..., Any], access: Access) -> WSGIApplication:
    """The application, for those who know the password if there is one."""
    if access.username is None or access.password is None:
        return application
    wanted = f"{access.username}:{access.password.get_secret_value()}".encode()

    def guarding(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        scheme, _, given = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        try:
            known = hmac.compare_digest(base64.b64decode(given, validate=True), wanted)
        except (binascii.Error, ValueError):
            known = False
        if scheme.lower() != "basic" or not known:
            asked = [("WWW-Authenticate", 'Basic realm="stream-detector", charset="UTF-8"')]
            return text(start_response, "401 Unauthorized", "user and password, please", asked)
        answer: Iterable[bytes] = application(environ, start_response)
        return answer

    return guarding


def _application(
    metrics: WSGIApplication, live: Callable[[], bool], ready: Callable[[], tuple[bool, str]]
) -> WSGIApplication:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return text(start_response, "405 Method Not Allowed", "GET or HEAD")
        if path == "/metrics":
            return metrics(environ, start_response)
        if path == "/livez":
            well, message = live(), "the loop turns"
            return _health(start_response, well, message if well else "the loop does not turn")
        if path == "/readyz":
            return _health(start_response, *ready())
        return text(start_response, "404 Not Found", "/metrics, /livez and /readyz are here")

    return application


def _health(start_response: StartResponse, well: bool, message: str) -> Iterable[bytes]:
    return text(start_response, "200 OK" if well else "503 Service Unavailable", message)


def text(
    start_response: StartResponse, status: str, message: str, more: Iterable[tuple[str, str]] = ()
) -> Iterable[bytes]:
    """An answer of one line."""
    body = f"{message}\n".encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body))), *more]
    start_response(status, headers)
    return [body]


class _Server(ThreadingMixIn, WSGIServer):
    """One slow client must not keep a probe of the orchestrator waiting: not even by its handshake."""

    daemon_threads = True
    certificate: Certificate | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Runs in the request's own thread."""
        if self.certificate is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(PATIENCE)
        with self.certificate.context().wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up or speaks no TLS is no trouble of ours."""
        log.debug("the HTTP port could not answer %s", client_address, exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE

    def get_stderr(self) -> Any:
        """Where wsgiref would write a traceback when a client is too slow: that is no trouble of ours either."""
        return _Debug()

    def log_message(self, format: str, *args: Any) -> None:  # the name is wsgiref's
        """Say nothing: probes come every few seconds."""


class _Debug:
    """A file that leads to the log."""

    def write(self, text: str) -> None:
        if line := text.strip():
            log.debug("the HTTP port: %s", line)

    def flush(self) -> None:
        """Nothing is held back."""
