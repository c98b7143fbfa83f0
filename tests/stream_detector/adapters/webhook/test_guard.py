"""Where requests may go: what is internal however it is written, and that the address looked at is the one used."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.adapters.webhook.guard import Blocked, addresses, internal

INTERNAL = [
    "127.0.0.1",
    "127.255.0.9",
    "0.0.0.0",  # noqa: S104 - nothing is bound to it
    "10.1.2.3",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",  # clouds tell secrets there
    "100.64.0.1",
    "192.0.0.8",
    "198.18.0.1",
    "192.0.2.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fc00::1",
    "fd00:ec2::254",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:10.0.0.1",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2001:0:7f00:1::",
]
PUBLIC = ["1.1.1.1", "93.184.216.34", "8.8.8.8", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


def found(*texts: str) -> Callable[..., list[Any]]:
    """A look-up that has these answers."""
    return lambda host, port, type: [(0, type, 0, "", (text, port)) for text in texts]


def nothing(host: str, address: str) -> bool:
    return False


@pytest.mark.parametrize("text", INTERNAL)
def test_internal(text: str) -> None:
    assert internal(ipaddress.ip_address(text))
    with pytest.raises(Blocked, match=r"innocent\.example leads to .*webhooks\.allow_internal"):
        addresses("innocent.example", 443, nothing, resolve=found(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_public(text: str) -> None:
    assert not internal(ipaddress.ip_address(text))
    assert addresses("hooks.example", 443, nothing, resolve=found(text)) == [text]


@given(st.ip_addresses(v=4))
def test_ipv6_hides_nothing(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    disguises = [ipaddress.IPv6Address((0xFFFF << 32) | number), ipaddress.IPv6Address((0x64FF9B << 96) | number)]
    for disguise in disguises:
        assert internal(disguise) == internal(address)
    if internal(address):
        assert internal(ipaddress.IPv6Address((0x2002 << 112) | (number << 80)))


@pytest.mark.parametrize("host", ["127.1", "0x7f.1", "2130706433", "0177.0.0.1", "localhost", "LOCALHOST"])
def test_other_ways_to_write_it_are_looked_at_as_the_system_reads_them(host: str) -> None:
    with pytest.raises(Blocked, match=r"127\.0\.0\.1|::1"):
        addresses(host, 80, nothing)


def test_of_several_only_those_that_are_fit_are_used() -> None:
    resolve = found("10.0.0.1", "1.1.1.1", "::1", "1.1.1.1")
    assert addresses("both.example", 443, nothing, resolve=resolve) == ["1.1.1.1"]


def test_a_list_opens_what_it_names_and_no_more() -> None:
    def allows(host: str, address: str) -> bool:
        return host == "alerts.internal" or address == "10.0.0.1"

    assert addresses("alerts.internal", 80, allows, plain=True, resolve=found("10.9.9.9")) == ["10.9.9.9"]
    assert addresses("x.example", 443, allows, resolve=found("10.0.0.1")) == ["10.0.0.1"]
    assert addresses("x.example", 443, allows, resolve=found("::ffff:10.0.0.1")) == ["::ffff:10.0.0.1"]
    with pytest.raises(Blocked):
        addresses("x.example", 443, allows, resolve=found("10.0.0.2"))
    with pytest.raises(Blocked, match="without TLS"):  # a public address that is not named needs TLS
        addresses("x.example", 80, allows, plain=True, resolve=found("1.1.1.1"))


def test_who_is_not_found_and_who_never_says() -> None:
    def unknown(host: str, port: int, type: int) -> list[Any]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(OSError, match=r"no address for x\.example: Name or service not known"):
        addresses("x.example", 443, nothing, resolve=unknown)
    with pytest.raises(Blocked):
        addresses("x.example", 443, nothing, resolve=found())
    over = threading.Event()

    def silent(host: str, port: int, type: int) -> list[Any]:
        over.wait(60)
        return []

    with pytest.raises(TimeoutError):
        addresses("x.example", 443, nothing, timeout=0.05, resolve=silent)
    over.set()
