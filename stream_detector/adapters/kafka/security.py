"""How to be let in: TLS and SASL from settings, contradictions told before anything is sent."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kafka.net.sasl import SASL_MECHANISMS
from kafka.net.sasl.oauth import AbstractTokenProvider

from stream_detector.errors import SettingsError
from stream_detector.tls import Names, context_of

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
BY_PASSWORD = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
OURS = (*BY_PASSWORD, "OAUTHBEARER")  # mechanisms that are tried before kafka-python does; others are its own affair
FILES = ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_crlfile")
TLS = Names(
    "kafka.ssl_cafile",
    "kafka.ssl_certfile",
    "kafka.ssl_keyfile",
    'set kafka.security_protocol = "PLAINTEXT", or "SASL_PLAINTEXT" with a login, or name the TLS port',
)


class TokenFile(AbstractTokenProvider):  # type: ignore[misc] # kafka-python has no annotations
    """The token that a file holds now: sidecars and Kubernetes replace it long before it expires."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def token(self) -> str:
        """Read anew at each login. Raises `SettingsError`."""
        try:
            token = self._path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not text"
            raise SettingsError(
                f"kafka.sasl_oauth_token_file: {self._path}: {why}; give a file that holds the current token"
            ) from None
        if not token or not token.isascii() or not token.isprintable():
            raise SettingsError(f"kafka.sasl_oauth_token_file: {self._path}: holds no token; see what writes it")
        return token


def secured(options: Mapping[str, Any], token_file: Path | None) -> dict[str, Any]:
    """The same, with what kafka-python wants as objects. Raises `SettingsError` for what would be ignored or fail."""
    made = dict(options)
    protocol = made.get("security_protocol", "PLAINTEXT")
    if protocol not in PROTOCOLS:
        raise SettingsError(f"kafka.security_protocol: give one of {', '.join(PROTOCOLS)} (got {protocol!r})")
    _check_tls(made, protocol)
    _check_login(made, protocol, token_file)
    if token_file is not None:
        made["sasl_oauth_token_provider"] = provider = TokenFile(token_file)
        provider.token()
    return made


def _check_tls(options: dict[str, Any], protocol: str) -> None:
    if not protocol.endswith("SSL"):
        for key in FILES:
            if options.get(key) is not None:
                wanted = protocol.replace("PLAINTEXT", "SSL")
                raise SettingsError(
                    f'kafka.{key}: without TLS it does nothing; set kafka.security_protocol = "{wanted}"'
                )
        return
    for key, other in (("ssl_keyfile", "ssl_certfile"), ("ssl_password", "ssl_keyfile")):
        if options.get(key) is not None and options.get(other) is None:
            raise SettingsError(f"kafka.{key}: needs kafka.{other} too; set both or none")
    context = tls_context(options)
    if options.get("ssl_crlfile"):
        options["ssl_context"] = context  # kafka-python 3.0.12 cannot load revocation lists by itself


def _check_login(options: Mapping[str, Any], protocol: str, token_file: Path | None) -> None:
    mechanism = options.get("sasl_mechanism")
    if not protocol.startswith("SASL_"):
        for key, value in (("sasl_mechanism", mechanism), ("sasl_oauth_token_file", token_file)):
            if value is not None:
                wanted = f"SASL_{protocol}"
                raise SettingsError(
                    f'kafka.{key}: without SASL it does nothing; set kafka.security_protocol = "{wanted}"'
                )
        return
    if mechanism not in SASL_MECHANISMS:
        got = "" if mechanism is None else f" (got {mechanism!r})"
        raise SettingsError(f"kafka.sasl_mechanism: give one of {', '.join(sorted(SASL_MECHANISMS))}{got}")
    if mechanism in BY_PASSWORD:
        for key in ("sasl_plain_username", "sasl_plain_password"):
            if not options.get(key):
                raise SettingsError(f"kafka.{key}: {mechanism} needs it; set it")
    if mechanism == "OAUTHBEARER" and token_file is None:
        raise SettingsError(
            "kafka.sasl_oauth_token_file: OAUTHBEARER needs it; give a file that holds the current token"
        )
    if mechanism != "OAUTHBEARER" and token_file is not None:
        raise SettingsError(f'kafka.sasl_oauth_token_file: {mechanism} takes none; set sasl_mechanism = "OAUTHBEARER"')


def tls_context(options: Mapping[str, Any]) -> ssl.SSLContext:
    """As kafka-python makes it from the same settings. Raises `SettingsError` for a bad file."""
    context = context_of(
        TLS,
        authority=options.get("ssl_cafile"),
        certificate=options.get("ssl_certfile"),
        key=options.get("ssl_keyfile"),
        password=options.get("ssl_password"),
    )
    context.check_hostname = bool(options.get("ssl_check_hostname", True))
    if revoked := options.get("ssl_crlfile"):
        try:
            context.load_verify_locations(revoked)
        except OSError as error:
            raise SettingsError(f"kafka.ssl_crlfile: {revoked}: {error.strerror}; give a PEM file") from None
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def remedy(mechanism: str) -> str:
    """What to do about a refused login."""
    if mechanism == "OAUTHBEARER":
        return "put a token that is valid now into the file kafka.sasl_oauth_token_file"
    return "check kafka.sasl_plain_username and kafka.sasl_plain_password"
