"""TLS as settings name it: contexts from files, and why a handshake failed, in words that say what to do."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import NamedTuple

from stream_detector.errors import Refused, SettingsError, StreamDetectorError, Unavailable

NOT_TLS = {"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}
# What the other side says of our certificate; a broker on Java says the first where none was given.
NO_CERTIFICATE = {"CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "HANDSHAKE_FAILURE"}
BAD_CERTIFICATE = {"UNKNOWN_CA", "CERTIFICATE_UNKNOWN", "CERTIFICATE_EXPIRED", "CERTIFICATE_REVOKED"}
EXPIRED, NOT_YET_VALID, REVOKED, WRONG_NAME = {10}, {9}, {23}, {62, 63, 64}  # OpenSSL's X509_V_ERR_…


class Names(NamedTuple):
    """How the settings of one section are called, for advice."""

    authority: str
    certificate: str
    key: str
    no_tls: str  # what to do if the server speaks none


def context_of(
    names: Names,
    *,
    authority: str | Path | None = None,
    certificate: str | Path | None = None,
    key: str | Path | None = None,
    password: str | None = None,
    server: bool = False,
) -> ssl.SSLContext:
    """A context that verifies certificate and name of the other side. Raises `SettingsError` for a bad file."""
    purpose = ssl.Purpose.CLIENT_AUTH if server else ssl.Purpose.SERVER_AUTH
    try:
        context = ssl.create_default_context(purpose, cafile=authority)
    except (OSError, ValueError) as error:
        raise _unreadable(names.authority, authority, error) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for name, path in ((names.certificate, certificate), (names.key, key)):
        if path is not None:
            try:
                Path(path).read_bytes()
            except OSError as error:
                raise _unreadable(name, path, error) from None
    if certificate is not None:
        try:
            # A password in any case: without one, OpenSSL would ask for it on the terminal and wait.
            context.load_cert_chain(certificate, key, password or "")
        except (OSError, ValueError) as error:
            what = f"{names.certificate}, {names.key}"
            raise _unreadable(what, certificate, error, "not a certificate with its key, or a wrong password") from None
    return context


def _unreadable(
    name: str, path: str | Path | None, error: Exception, otherwise: str = "no certificates in it"
) -> SettingsError:
    why = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else otherwise
    return SettingsError(f"{name}: {path}: {why}; give a PEM file")


def cause_of(error: BaseException | None) -> ssl.SSLError | None:
    """The TLS error that ``error`` is or came from; clients wrap it in errors of their own."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def explained(error: ssl.SSLError, where: str, names: Names) -> StreamDetectorError:
    """A failed handshake with ``where`` as one of our errors."""
    reason = (error.reason or "").upper()
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refused(f"{where}: TLS: {_unverified(error, names)}")
    if reason in NOT_TLS:
        return Refused(f"{where}: TLS: what answers speaks no TLS; {names.no_tls}")
    if any(reason.endswith(alert) for alert in BAD_CERTIFICATE):
        told = reason.rpartition("ALERT_")[2].lower().replace("_", " ")
        return Refused(
            f"{where}: TLS: our certificate is refused ({told}); set {names.certificate} and {names.key}"
            " to one that the server's authority signed and that is still valid"
        )
    if any(reason.endswith(alert) for alert in NO_CERTIFICATE):
        return Refused(
            f"{where}: TLS: a client certificate is wanted, or another one; set {names.certificate} and {names.key}"
        )
    if "PROTOCOL_VERSION" in reason or "UNSUPPORTED_PROTOCOL" in reason:
        return Refused(f"{where}: TLS: no version in common; TLS 1.2 or newer is needed on the server")
    if isinstance(error, ssl.SSLEOFError) or "EOF" in reason:
        return Unavailable(f"{where}: TLS: hung up in the middle of the handshake; does it speak TLS? {names.no_tls}")
    return Refused(f"{where}: TLS: {reason.lower().replace('_', ' ') or 'failed'}; see the server's log")


def _unverified(error: ssl.SSLCertVerificationError, names: Names) -> str:
    code, told = error.verify_code, str(error.verify_message).rstrip(".")
    if code in EXPIRED:
        return "the server's certificate has expired; renew it"
    if code in NOT_YET_VALID:
        return "the server's certificate is not valid yet; check this machine's clock"
    if code in REVOKED:
        return "the server's certificate was revoked; renew it"
    if code in WRONG_NAME:
        return f"{told}; connect by a name that the certificate holds, or have one made for this name"
    return f"unknown authority ({told}); set {names.authority} to the authority that signed the server's certificate"


def speaks_tls(host: str, port: int, timeout: float) -> bool:
    """Whether what listens there answers a TLS greeting; for advice, so nothing is verified and nothing sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")  # it refuses us, in TLS
    except OSError:
        return False
