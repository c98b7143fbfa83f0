"""Who may read the HTTP port, and how: passwords and TLS; what it shows is `test_prometheus`' business."""

from __future__ import annotations

import base64
import logging
import shutil
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from stream_detector.adapters.prometheus.observer import PrometheusObserver, Server
from stream_detector.errors import SettingsError
from stream_detector.events import Model
from stream_detector.settings import Metrics
from tests.servers.secure import Authority

PASSWORD = "hunter2-secret"


@pytest.fixture
def opened() -> Iterator[Callable[..., Server]]:
    """Opens ports with these settings, and closes them."""
    servers: list[Server] = []
    observer = PrometheusObserver(Model("pumps", "7"), lambda: 1_000.0)

    def serve(**access: object) -> Server:
        metrics = Metrics.model_validate(access)
        servers.append(observer.serve("127.0.0.1", 0, lambda: True, lambda: (True, "all answer"), metrics))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


def ask(url: str, login: str | None = None, trust: ssl.SSLContext | None = None) -> tuple[int, str, str | None]:
    """Status, body, and how the server wants to be asked."""
    request = urllib.request.Request(url)  # noqa: S310 - our own port
    if login is not None:
        request.add_header("Authorization", login)
    try:
        with urllib.request.urlopen(request, timeout=10, context=trust) as answer:  # noqa: S310 - our own port
            return answer.status, answer.read().decode(), None
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers["WWW-Authenticate"]


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def presented(server: Server, trust: ssl.SSLContext) -> str:
    """The name in the certificate that the server shows."""
    with (
        socket.create_connection(("127.0.0.1", server.port)) as plain,
        trust.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        certificate: Any = secured.getpeercert()
        [[(_, name)]] = certificate["subject"]
        return str(name)


def test_metrics_may_want_a_password_and_health_does_not(opened: Callable[..., Server]) -> None:
    at = f"http://127.0.0.1:{opened(username='prometheus', password=PASSWORD).port}"
    assert ask(f"{at}/livez")[0] == ask(f"{at}/readyz")[0] == 200
    right = basic(f"prometheus:{PASSWORD}")
    assert "stream_detector_model_info" in ask(f"{at}/metrics", right)[1]
    assert ask(f"{at}/metrics", right.replace("Basic", "basic"))[0] == 200


@pytest.mark.parametrize(
    "login",
    [
        None,
        "",
        "Basic",
        "Basic ***",
        "Basic Zm9v",
        f"Bearer {PASSWORD}",
        basic(f"prometheus:{PASSWORD}").replace("Basic", "Digest"),
        basic(f"prometheus:{PASSWORD}x"),
        basic(f"prometheus:{PASSWORD[:-1]}"),
        basic(f"other:{PASSWORD}"),
        basic(f":{PASSWORD}"),
        basic("prometheus:"),
    ],
)
def test_a_wrong_password_gets_nothing(opened: Callable[..., Server], login: str | None) -> None:
    at = f"http://127.0.0.1:{opened(username='prometheus', password=PASSWORD).port}"
    status, body, wanted = ask(f"{at}/metrics", login)
    assert (status, wanted) == (401, 'Basic realm="stream-detector", charset="UTF-8"')
    assert PASSWORD not in body
    assert "stream_detector_" not in body


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def secured(opened: Callable[..., Server], authority: Authority, tmp_path: Path) -> Server:
    """A port with a certificate in files that can be replaced."""
    first = authority.issue("first")
    shutil.copy(first.certificate, tmp_path / "tls.pem")
    shutil.copy(first.key, tmp_path / "tls.key")
    files = {"tls_cert_file": tmp_path / "tls.pem", "tls_key_file": tmp_path / "tls.key"}
    return opened(**files, username="prometheus", password=PASSWORD)


def test_over_tls(secured: Server, authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    trust = ssl.create_default_context(cafile=authority.certificate)
    at = f"https://127.0.0.1:{secured.port}"
    assert ask(f"{at}/livez", trust=trust)[0] == 200
    assert ask(f"{at}/metrics", trust=trust)[0] == 401
    assert ask(f"{at}/metrics", basic(f"prometheus:{PASSWORD}"), trust)[0] == 200
    # A client that connects and says nothing keeps nobody waiting.
    with socket.create_connection(("127.0.0.1", secured.port)):
        assert ask(f"{at}/livez", trust=trust)[0] == 200
    # One that speaks no TLS gets nothing, and nothing is written about it.
    got = b""
    with socket.create_connection(("127.0.0.1", secured.port)) as plain, suppress(ConnectionResetError):
        plain.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        got = plain.recv(65_536)
    assert not got.startswith(b"HTTP")
    assert caplog.records == []


def test_a_certificate_is_replaced_while_the_port_is_open(
    secured: Server, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trust = ssl.create_default_context(cafile=authority.certificate)
    second = authority.issue("second")
    assert presented(secured, trust) == "first"
    shutil.copy(second.certificate, tmp_path / "tls.pem")
    assert presented(secured, trust) == "first"  # the two files do not fit just now
    assert "going on with the certificate from before" in caplog.text
    shutil.copy(second.key, tmp_path / "tls.key")
    assert presented(secured, trust) == "second"


@pytest.mark.parametrize("missing", ["tls_cert_file", "tls_key_file"])
def test_unreadable_files_name_the_setting(opened: Callable[..., Server], authority: Authority, missing: str) -> None:
    own = authority.issue("own")
    files = {"tls_cert_file": own.certificate, "tls_key_file": own.key, missing: authority.folder / "nowhere"}
    with pytest.raises(SettingsError, match=rf"^metrics\.{missing}: .*nowhere: No such file.*PEM"):
        opened(**files)
