"""Servers as they stand in a hostile place: TLS, logins, permissions; with certificates made for one test run.

The broker speaks TLS itself. The Redis at hand is mostly Valkey from PyPI, built without TLS, so a terminator stands in
front of it, as stunnel would; logins and permissions are the server's own.
"""

from __future__ import annotations

import base64
import json
import select
import shlex
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import redis
from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)
from kafka.admin import ACLResourcePatternType as PatternType

from tests.servers.kafka import KafkaBroker
from tests.servers.process import free_port
from tests.servers.redis import RedisServer

HERE = "DNS:localhost,IP:127.0.0.1"
ELSEWHERE = "DNS:elsewhere.example"
NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
LOGIN = "org.apache.kafka.common.security"


class Certificate(NamedTuple):
    certificate: Path
    key: Path
    store: Path  # key, certificate and authority in one file, as the broker wants it


class Authority:
    """Signs certificates; what it makes lies in ``folder``."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder, self.name = folder, name
        self.certificate, self.key = folder / f"{name}.pem", folder / f"{name}.key"
        folder.mkdir(exist_ok=True)
        made = ["-keyout", self.key, "-out", self.certificate, "-subj", f"/CN={name}", "-days", 2]
        _openssl("req", "-x509", *NEW_KEY, *made)

    def issue(self, name: str, names: str = HERE, days: int = 2) -> Certificate:
        """A certificate for ``CN=name``; with negative ``days`` it has expired."""
        certificate, key, store = (self.folder / f"{name}.{ending}" for ending in ("pem", "key", "store"))
        request, extensions = self.folder / f"{name}.request", self.folder / f"{name}.extensions"
        extensions.write_text(f"subjectAltName={names}\nbasicConstraints=CA:FALSE\n")
        _openssl("req", "-new", *NEW_KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        signed = ["-CA", self.certificate, "-CAkey", self.key, "-days", days, "-extfile", extensions]
        _openssl("x509", "-req", "-in", request, "-out", certificate, *signed)
        store.write_text(key.read_text() + certificate.read_text() + self.certificate.read_text())
        return Certificate(certificate, key, store)

    def locked(self, name: str, password: str) -> Certificate:
        """One whose key is encrypted."""
        made = self.issue(name)
        locked = made.key.with_suffix(".locked")
        _openssl("pkey", "-in", made.key, "-aes256", "-passout", f"pass:{password}", "-out", locked)
        return made._replace(key=locked)

    def revocations(self) -> Path:
        """A list of revoked certificates, with none on it."""
        made, index, config = (self.folder / name for name in ("revoked.pem", "index.txt", "ca.cnf"))
        index.touch()
        config.write_text(f"[ca]\ndefault_ca=x\n[x]\ndatabase={index}\ndefault_md=sha256\ndefault_crl_days=2\n")
        signer = ["-cert", self.certificate, "-keyfile", self.key]
        _openssl("ca", "-gencrl", "-config", config, *signer, "-out", made)
        return made


def _openssl(*arguments: object) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"no certificate could be made\n{done.stderr}")


class SecureBroker(KafkaBroker):
    """One broker with a listener for each way in; `at` says where. ``PLAINTEXT`` is for the tests themselves.

    `passwords` are those of the users, who may do nothing until `allow` is called.
    """

    def __init__(self, authority: Authority, passwords: Mapping[str, str]) -> None:
        seeds = [
            f"{mechanism}=[name={user},password={password}]"
            for user, password in passwords.items()
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
        ]
        super().__init__(format_options=[part for seed in seeds for part in ("--add-scram", seed)])
        right = authority.issue("broker")
        stores = {
            "SCRAM": right,
            "PLAIN": right,
            "OAUTH": right,
            "MTLS": right,
            "EXPIRED": authority.issue("expired-broker", days=-1),
            "MISNAMED": authority.issue("misnamed-broker", names=ELSEWHERE),
        }
        ports = {name: free_port() for name in [*stores, "BARE"]}
        self.at = {"PLAINTEXT": self.bootstrap} | {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        protocols = dict.fromkeys(stores, "SASL_SSL") | {
            "PLAINTEXT": "PLAINTEXT",
            "CONTROLLER": "PLAINTEXT",
            "MTLS": "SSL",
            "BARE": "SASL_PLAINTEXT",
        }
        addresses = [f"{name}://{where}" for name, where in self.at.items()]
        addresses.append(f"CONTROLLER://127.0.0.1:{self.controller_port}")
        self._properties |= {
            "listeners": ",".join(addresses),
            "advertised.listeners": ",".join(addresses),
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in protocols.items()),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",  # on the listener for the tests
            "ssl.keystore.type": "PEM",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(authority.certificate),
        }
        users = " ".join(f'user_{user}="{password}"' for user, password in passwords.items())
        logins = {
            "scram-sha-256": f"{LOGIN}.scram.ScramLoginModule required;",
            "scram-sha-512": f"{LOGIN}.scram.ScramLoginModule required;",
            "plain": f"{LOGIN}.plain.PlainLoginModule required {users};",
            # Kafka's own validator of unsigned tokens, which is made for tests.
            "oauthbearer": f"{LOGIN}.oauthbearer.OAuthBearerLoginModule required"
            ' unsecuredLoginStringClaim_sub="broker";',
        }
        enabled = {"PLAIN": ["plain"], "OAUTH": ["oauthbearer"]}
        for name, kind in protocols.items():
            listener = f"listener.name.{name.lower()}"
            if kind.endswith("SSL"):
                self._properties[f"{listener}.ssl.keystore.location"] = str(stores[name].store)
            if kind.startswith("SASL"):
                mechanisms = enabled.get(name, ["scram-sha-256", "scram-sha-512"])
                self._properties[f"{listener}.sasl.enabled.mechanisms"] = ",".join(mechanisms).upper()
                for mechanism in mechanisms:
                    self._properties[f"{listener}.{mechanism}.sasl.jaas.config"] = logins[mechanism]
        self._properties["listener.name.mtls.ssl.client.auth"] = "required"
        self._properties["listener.name.mtls.ssl.principal.mapping.rules"] = "RULE:^CN=([a-z]+).*$/$1/"

    def allow(self, commands: Iterable[str]) -> None:
        """Do what these lines of ``kafka-acls.sh … --add`` would do, and wait until it counts."""
        self._change(commands, lambda admin, rules: admin.create_acls(rules), lambda rule, known: rule in known)

    def forbid(self, commands: Iterable[str]) -> None:
        """Take back what these lines give, and wait until it counts."""
        self._change(commands, lambda admin, rules: admin.delete_acls(rules), lambda rule, known: rule not in known)

    def _change(
        self,
        commands: Iterable[str],
        change: Callable[[Any, list[ACL]], object],
        done: Callable[[ACL, list[ACL]], bool],
    ) -> None:
        rules = [rule for command in commands for rule in rules_of(command)]
        anything = ResourcePatternFilter(ResourceType.ANY, None, PatternType.ANY)
        every = ACLFilter(None, None, ACLOperation.ANY, ACLPermissionType.ANY, anything)
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        deadline = time.monotonic() + 20
        try:
            change(admin, rules)
            while not all(done(rule, admin.describe_acls(every)[0]) for rule in rules):
                if time.monotonic() > deadline:
                    raise RuntimeError("the permissions do not change")
        finally:
            admin.close()


def rules_of(command: str) -> list[ACL]:
    """The permissions that one line of ``kafka-acls.sh`` gives."""
    words = shlex.split(command)
    options = list(pairwise(words))
    (principal,) = [value for key, value in options if key == "--allow-principal"]
    (resource,) = [(key, value) for key, value in options if key in ("--topic", "--group", "--transactional-id")]
    prefixed = ("--resource-pattern-type", "prefixed") in options
    kind = ResourceType[resource[0].removeprefix("--").replace("-", "_").upper()]
    pattern = ResourcePattern(kind, resource[1], PatternType.PREFIXED if prefixed else PatternType.LITERAL)
    operations = [ACLOperation[value.upper()] for key, value in options if key == "--operation"]
    return [ACL(principal, "*", operation, ACLPermissionType.ALLOW, pattern) for operation in operations]


def token(user: str, seconds: float = 600) -> str:
    """An unsigned token for ``user``."""
    now = time.time()
    parts = {"alg": "none"}, {"sub": user, "iat": now - 60, "exp": now + seconds}
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, ""])


class SecureRedis:
    """A Redis with a password for everybody, and terminators of TLS before it: `url` says where.

    `allow` takes lines of ``ACL SETUSER …``.
    """

    def __init__(self, authority: Authority, password: str) -> None:
        self.server = RedisServer()
        self._password = password
        right = authority.issue("redis")
        self._terminators = {
            "right": Terminator(self.server.port, right),
            "expired": Terminator(self.server.port, authority.issue("expired-redis", days=-1)),
            "misnamed": Terminator(self.server.port, authority.issue("misnamed-redis", names=ELSEWHERE)),
            "mutual": Terminator(self.server.port, right, authority),
        }

    def url(self, listener: str = "right") -> str:
        return f"rediss://127.0.0.1:{self._terminators[listener].port}/0"

    def admin(self) -> redis.Redis:
        return redis.Redis.from_url(self.server.url, password=self._password)

    def allow(self, line: str) -> None:
        with self.admin() as client:
            client.execute_command(*shlex.split(line))

    def __enter__(self) -> Self:
        self.server.__enter__()
        with redis.Redis.from_url(self.server.url) as client:
            client.config_set("requirepass", self._password)
        for terminator in self._terminators.values():
            terminator.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for terminator in self._terminators.values():
            terminator.stop()
        self.server.__exit__(kind, error, trace)


class Terminator:
    """TLS outside, plain TCP to a loopback port inside. With ``clients``, only those with its certificates get in."""

    def __init__(self, target: int, certificate: Certificate, clients: Authority | None = None) -> None:
        self.port, self._target = free_port(), target
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate.certificate, certificate.key)
        if clients is not None:
            self._context.load_verify_locations(clients.certificate)
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener: socket.socket | None = None

    def start(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), name="terminator", daemon=True).start()

    def stop(self) -> None:
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # stopped
                return
            threading.Thread(target=self._serve, args=(connection,), name="terminated", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with (
            suppress(OSError),
            connection,
            self._context.wrap_socket(connection, server_side=True) as outside,
            socket.create_connection(("127.0.0.1", self._target)) as inside,
        ):
            ways = {outside: inside, inside: outside}
            while True:
                ready = [outside] if outside.pending() else select.select(list(ways), [], [])[0]
                for source in ready:
                    if not (data := source.recv(65_536)):
                        return
                    ways[source].sendall(data)


def leaks(secrets: Iterable[str], texts: Mapping[str, str]) -> list[str]:
    """Names of the texts that hold a secret, as it is or in base64."""
    spelt = [form for secret in secrets for form in (secret, base64.b64encode(secret.encode()).decode().rstrip("="))]
    return [name for name, text in texts.items() if any(form in text for form in spelt)]
