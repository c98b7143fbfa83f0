"""Where requests may go: addresses are looked at after the look-up, and connected to as they were looked at.

Nothing else is looked up afterwards, so a name that changes its address in between (DNS rebinding) leads nowhere. The
host's name still goes into the TLS handshake and the request.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import httpcore

Address = IPv4Address | IPv6Address
Resolve = Callable[..., list[Any]]
Allows = Callable[[str, str], bool]

NAT64 = ipaddress.ip_network("64:ff9b::/96")
# What the versions of Python disagree about.
FURTHER = [ipaddress.ip_network(text) for text in ("192.0.0.0/24", "192.88.99.0/24", "64:ff9b:1::/48", "3fff::/20")]
COMPATIBLE = ipaddress.ip_network("::/96")  # old, and still a way to write an IPv4 address


class Blocked(Exception):  # an outcome, which `adapters.webhook.request` makes of it
    """A host leads to addresses that requests must not go to."""


def internal(address: Address) -> bool:
    """Whether an address is not one of the public Internet, also in the disguises that IPv6 has for IPv4."""
    if isinstance(address, IPv6Address):
        low = IPv4Address(int(address) & 0xFFFFFFFF)
        if address.ipv4_mapped is not None or address in NAT64:  # nothing but another way to write it
            return internal(low)
        tunnels = [address.sixtofour, *(address.teredo or ()), low if address in COMPATIBLE else None]
        if address.is_site_local or any(internal(one) for one in tunnels if one is not None):
            return True
    if any(address.version == network.version and address in network for network in FURTHER):
        return True
    return not address.is_global or address.is_multicast or address.is_reserved or address.is_unspecified


def addresses(
    host: str,
    port: int,
    allows: Allows,
    *,
    plain: bool = False,
    timeout: float = 10.0,
    resolve: Resolve = socket.getaddrinfo,
) -> list[str]:
    """What ``host`` resolves to, without what is internal and not allowed. ``plain``: what is allowed by name alone.

    Raises `Blocked` if nothing is left, and `OSError` if there is no such host or nobody says in time.
    """
    found = list(dict.fromkeys(str(entry[4][0]) for entry in _resolved(resolve, host, port, timeout)))
    fit = []
    for text in found:
        address = ipaddress.ip_address(text.partition("%")[0])
        bare = getattr(address, "ipv4_mapped", None) or address  # so that a list of IPv4 networks holds for both
        if allows(host, str(bare)) or not (plain or internal(address)):
            fit.append(text)
    if not fit:
        what = f"{', '.join(found)}: {'without TLS' if plain else 'internal'}" if found else "nowhere"
        raise Blocked(f"{host} leads to {what}, and not in webhooks.allow_internal")
    return fit


def _resolved(resolve: Resolve, host: str, port: int, timeout: float) -> list[Any]:
    """The system's look-up knows no time limit; what is given up goes on in its thread."""
    outcome: list[list[Any] | OSError] = []

    def run() -> None:
        try:
            outcome.append(resolve(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            outcome.append(OSError(f"no address for {host}: {getattr(error, 'strerror', None) or error}"))

    thread = threading.Thread(target=run, name="resolve", daemon=True)
    thread.start()
    thread.join(max(0.0, timeout))
    if not outcome:
        raise TimeoutError(f"no address for {host} in time")
    if isinstance(outcome[0], OSError):
        raise outcome[0]
    return outcome[0]


class GuardedBackend(httpcore.NetworkBackend):
    """Connects to addresses that pass, and lets nothing last beyond its deadline, however slowly bytes drip."""

    def __init__(self, allows: Allows, timeout: float, *, plain: bool, resolve: Resolve = socket.getaddrinfo) -> None:
        self._allows, self._plain, self._resolve = allows, plain, resolve
        self._deadline = time.monotonic() + timeout

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """The first address that answers. Raises `Blocked` and httpcore's exceptions."""
        try:
            found = addresses(host, port, self._allows, plain=self._plain, timeout=self._left(), resolve=self._resolve)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        failure: Exception = httpcore.ConnectTimeout("out of time")
        for address in found:
            if self._left() <= 0:
                break
            try:
                stream = httpcore.SyncBackend().connect_tcp(address, port, self._left(), local_address, socket_options)
                return TimedStream(stream, self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def _left(self) -> float:
        return self._deadline - time.monotonic()


class TimedStream(httpcore.NetworkStream):
    """A connection that ends at a deadline."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._left(httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._left(httpcore.ConnectTimeout)
        return TimedStream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def _left(self, late: type[Exception]) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise late("out of time")
        return left
