"""The way to one broker, step by step: TCP, TLS, SASL.

kafka-python says "unable to bootstrap" whatever went wrong on it. Here the same is done by hand, with its own messages
and mechanisms, to say at which step it ends and what to do.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Self

import kafka.errors as kafka_errors
from kafka.net.sasl import SASL_MECHANISMS
from kafka.protocol.broker_version_data import BrokerVersionData
from kafka.protocol.metadata import ApiVersionsRequest, MetadataRequest
from kafka.protocol.parser import KafkaProtocol
from kafka.protocol.sasl import SaslAuthenticateRequest, SaslHandshakeRequest

from stream_detector.adapters.kafka.security import OURS, TLS, remedy, tls_context
from stream_detector.errors import Refused, SettingsError, StreamDetectorError, Unavailable
from stream_detector.tls import explained, speaks_tls

PATIENCE = 5.0  # seconds for each answer
ROUNDS = 10  # of a SASL exchange; the longest has three


class HungUp(Exception):  # no error yet: what it means depends on the step
    """The broker ended the connection, or sent what is no answer of Kafka's."""


class Handshake:
    """A connection to one broker for as long as it takes to see whether it can be had."""

    def __init__(self, server: str, options: Mapping[str, Any]) -> None:
        self.server, self._options = server, options
        self._protocol = str(options.get("security_protocol", "PLAINTEXT"))
        self._host, self._port = address(server)
        self._socket: socket.socket | None = None
        self._parser = KafkaProtocol(client_id="stream-detector-check")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()

    def dial(self) -> str:
        """TCP."""
        try:
            self._socket = socket.create_connection((self._host, self._port), PATIENCE)
        except (socket.gaierror, UnicodeError):
            raise self._away(f"no such host {self._host!r}; correct kafka.bootstrap_servers") from None
        except OSError as error:
            why = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
            advice = "start the broker, open the firewall or correct kafka.bootstrap_servers"
            raise self._away(f"{why}; {advice}") from None
        return "accepts connections"

    def secure(self) -> str:
        """TLS, where the settings want it."""
        if "SSL" not in self._protocol:
            return "without TLS: whoever is on the way can read and change everything"
        context = tls_context(self._options)
        try:
            wrapped = context.wrap_socket(self._opened(), server_hostname=self._host.rstrip("."))
        except ssl.SSLCertVerificationError as error:
            raise explained(error, f"Kafka: {self.server}", TLS) from None
        except (ssl.SSLError, ConnectionError) as error:
            if self._answers_without_tls():
                raise self._refused(f"this listener speaks no TLS; {TLS.no_tls}") from None
            if isinstance(error, ssl.SSLError):
                raise explained(error, f"Kafka: {self.server}", TLS) from None
            raise self._away(f"hung up in the TLS handshake: {error.strerror}; see the broker's log") from None
        except OSError:
            raise self._away(f"no answer to TLS; {TLS.no_tls}") from None
        self._socket = wrapped
        certificate: Any = wrapped.getpeercert()
        named = "" if context.check_hostname else ", its host name NOT verified (kafka.ssl_check_hostname)"
        return f"{wrapped.version()}, certificate valid until {certificate.get('notAfter', '?')}{named}"

    def login(self) -> str:
        """Kafka itself, then SASL, where the settings want it."""
        try:
            version = self._version()
        except HungUp as error:
            raise self._no_kafka(error) from None
        if "SASL" not in self._protocol:
            try:
                self._ask(MetadataRequest(version=1, topics=[]))
            except HungUp:
                raise self._refused(
                    f"this listener wants a login; set kafka.security_protocol"
                    f' = "SASL_{self._protocol}", kafka.sasl_mechanism, user and password'
                ) from None
            who = "logged in by certificate" if self._options.get("ssl_certfile") else "anonymous"
            return f"Kafka answers ({version} or newer), {who}"
        try:
            who = self._authenticate()
        except HungUp:
            raise self._away("hung up in the middle of the login; see the broker's log") from None
        return f"Kafka answers ({version} or newer), {who}"

    def _authenticate(self) -> str:
        name = str(self._options["sasl_mechanism"])
        answer = self._ask(SaslHandshakeRequest(version=1, mechanism=name))
        offered = ", ".join(answer.mechanisms)
        failure = kafka_errors.for_code(answer.error_code)
        if failure is kafka_errors.IllegalSaslStateError:
            raise self._refused(
                "this listener takes no login; set kafka.security_protocol"
                f' = "{self._protocol.removeprefix("SASL_")}", or name the port of a listener with SASL'
            )
        if failure is not kafka_errors.NoError or name not in answer.mechanisms:
            raise self._refused(f"{name} is not enabled here; set kafka.sasl_mechanism to one of: {offered}")
        if name not in OURS:
            return f"login by {name}"  # left to the client: it may want more than there is here
        mechanism = SASL_MECHANISMS[name](host=self._host, **self._options)
        for _ in range(ROUNDS):
            try:
                token = mechanism.auth_bytes()
                answer = self._ask(SaslAuthenticateRequest(version=0, auth_bytes=token))
                if answer.error_code:
                    raise self._refused(f"login refused ({one_line(answer.error_message)}); {remedy(name)}")
                mechanism.receive(answer.auth_bytes)
            except (KeyError, ValueError, RuntimeError) as error:  # how mechanisms say that an answer makes no sense
                raise self._refused(f"the login by {name} failed ({one_line(error)}); {remedy(name)}") from None
            if mechanism.is_done():
                break
        if not mechanism.is_authenticated():
            raise self._refused(f"login refused; {remedy(name)}")
        user = self._options.get("sasl_plain_username")
        bare = name in ("PLAIN", "OAUTHBEARER") and "SSL" not in self._protocol
        how = f"by {name}" + (", the secret readable on the way" if bare else "")
        return f"logged in as {user} {how}" if user else f"logged in {how}"

    def _version(self) -> str:
        answer = self._ask(ApiVersionsRequest(version=0))
        known = {one.api_key: (one.min_version, one.max_version) for one in answer.api_keys}
        return str(BrokerVersionData(api_versions=known).broker_version_str)

    def _no_kafka(self, error: HungUp) -> StreamDetectorError:
        """Why nothing that speaks Kafka answered."""
        if "SSL" in self._protocol:
            if isinstance(error.__cause__, ssl.SSLError):  # in TLS 1.3 our certificate is refused only now
                return explained(error.__cause__, f"Kafka: {self.server}", TLS)
            return self._refused(
                f"what answers there is no Kafka, or wants a client certificate; set {TLS.certificate}"
            )
        if speaks_tls(self._host, self._port, PATIENCE):
            wanted = self._protocol.replace("PLAINTEXT", "SSL")
            return self._refused(
                f'this listener speaks TLS; set kafka.security_protocol = "{wanted}" and {TLS.authority}'
            )
        return self._away("hung up without an answer: no Kafka, or one that just stops; see what listens there")

    def _answers_without_tls(self) -> bool:
        plain = Handshake(self.server, {"security_protocol": "PLAINTEXT"})
        with plain:
            try:
                plain.dial()
                plain._version()
            except (HungUp, StreamDetectorError):
                return False
            return True

    def _ask(self, request: Any) -> Any:
        """One request, one answer."""
        line = self._opened()
        line.settimeout(PATIENCE)
        self._parser.send_request(request)
        try:
            line.sendall(self._parser.send_bytes())
            while True:
                data = line.recv(65_536)
                if not data:
                    raise HungUp
                for _, answer in self._parser.receive_bytes(data):
                    return answer
        except TimeoutError:
            raise self._away(f"no answer within {PATIENCE:.0f} s; see the broker's log") from None
        except (OSError, kafka_errors.KafkaError, ValueError) as error:
            raise HungUp from error

    def _opened(self) -> socket.socket:
        if self._socket is None:
            self.dial()
        assert self._socket is not None  # noqa: S101 # dialled just now
        return self._socket

    def _away(self, message: str) -> Unavailable:
        return Unavailable(f"Kafka: {self.server}: {message}")

    def _refused(self, message: str) -> Refused:
        return Refused(f"Kafka: {self.server}: {message}")


def steps(handshake: Handshake) -> list[tuple[str, Callable[[], str]]]:
    """What there is to do, in its order."""
    return [("", handshake.dial), (" TLS", handshake.secure), (" login", handshake.login)]


def diagnosis(servers: str | list[str], options: Mapping[str, Any]) -> StreamDetectorError | None:
    """Why no broker can be had: of all servers the clearest answer; None if one can be had after all."""
    found: list[StreamDetectorError] = []
    for server in addresses(servers):
        try:
            with Handshake(server, options) as handshake:
                for _, step in steps(handshake):
                    step()
            return None
        except StreamDetectorError as error:
            found.append(error)
    return min(found, key=lambda error: isinstance(error, Unavailable), default=None)


def addresses(servers: str | list[str]) -> list[str]:
    """``kafka.bootstrap_servers`` one by one."""
    names = servers.split(",") if isinstance(servers, str) else servers
    return [name.strip() for name in names]


def address(server: str) -> tuple[str, int]:
    """Host and port of ``host:port``, ``[::1]:port`` or a bare host. Raises `SettingsError`."""
    server = server.rpartition("://")[2]
    host, colon, port = server.rpartition(":")
    if not colon or server.endswith("]"):
        host, port = server, "9092"
    if not port.isdecimal():
        raise SettingsError(f"kafka.bootstrap_servers: {port!r} is no port; write host:port")
    return host.strip("[]"), int(port)


def one_line(text: object) -> str:
    """Words of the other side, fit for one line."""
    return " ".join(str(text).split())
