"""The page's answers: its files, and the stream. Nothing is loaded from elsewhere and nothing inline runs."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from importlib.resources import files
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from stream_detector.adapters.http import text
from stream_detector.adapters.page.viewers import Viewer, Viewers
from stream_detector.settings import Page

FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/charts.js": ("charts.js", "text/javascript"),
    "/words.js": ("words.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = [
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
]
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def site(viewers: Viewers, access: Page) -> WSGIApplication:
    """The application."""
    folder = files("stream_detector.adapters.page") / "static"
    contents = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in FILES.items()}
    names = _names(access)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return text(start_response, "405 Method Not Allowed", "GET or HEAD", HEADERS)
        if names is not None and host_of(environ.get("HTTP_HOST", "")) not in names:
            # Some name of somebody's that leads here: a page of theirs would pass for ours.
            return text(start_response, "421 Misdirected Request", "not by that name; see page.names", HEADERS)
        if environ.get("HTTP_SEC_FETCH_SITE", "none") in ("cross-site", "same-site") and path != "/":
            return text(start_response, "403 Forbidden", "for the page itself alone", HEADERS)
        if path == "/stream":
            if environ["REQUEST_METHOD"] == "HEAD":
                return text(start_response, "405 Method Not Allowed", "GET", HEADERS)
            return _stream(viewers, environ, start_response)
        if path not in contents:
            return text(start_response, "404 Not Found", "the live page is at /", HEADERS)
        body, kind = contents[path]
        about = [("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body)))]
        start_response("200 OK", [*about, *HEADERS])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return application


def host_of(header: str) -> str:
    """The name in a Host header, without the port, in lower case."""
    name = header.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.rpartition(":")[0] if ":" in name else name


def _names(access: Page) -> frozenset[str] | None:
    """Names the page answers to; None for any: listening to the network, it cannot know what it is called there."""
    local = access.host.lower() in LOOPBACK or _loopback(access.host)
    if not local and not access.names:
        return None
    return LOOPBACK | {name.lower() for name in access.names} | {access.host.lower()}


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _stream(viewers: Viewers, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    given = parse_qs(environ.get("QUERY_STRING", "")).get("sensor", [""])
    viewer = viewers.enter(given[0])
    if viewer is None:
        more = [*HEADERS, ("Retry-After", "5")]
        return text(start_response, "503 Service Unavailable", f"{viewers.most} are looking already", more)
    start_response("200 OK", [("Content-Type", "text/event-stream; charset=utf-8"), *HEADERS])
    return _Stream(viewers, viewer)


class _Stream:
    """A viewer's messages; wsgiref closes it when the client is gone."""

    def __init__(self, viewers: Viewers, viewer: Viewer) -> None:
        self._viewers, self._viewer = viewers, viewer

    def __iter__(self) -> Iterator[bytes]:
        return self._viewer.stream()

    def close(self) -> None:
        self._viewers.leave(self._viewer)
