"""Which client is behind a socket, and who counts as one client."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from amesh_relay.addresses import client_address, client_of, network

TRUSTED = [network("10.0.0.0/8"), network("fd00::/8"), network("203.0.113.9")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        # no proxy: the header is only text that a client wrote
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        ("192.0.2.1", ["10.0.0.1"], "192.0.2.1"),
        # one proxy: it appends the address it was called from
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["1.1.1.1", "2.2.2.2", "198.51.100.7"], "198.51.100.7"),
        ("fd00::1", ["2001:db8::7"], "2001:db8::7"),
        ("203.0.113.9", ["198.51.100.7"], "198.51.100.7"),
        # several: from the right, the first that is not one of them
        ("10.0.0.1", ["1.1.1.1, 198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", ["198.51.100.7", "fd00::2,10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", ["10.9.9.9, 198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        # nobody outside: the farthest of our own
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        # no header, or an empty one
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        # what is no address counts as the proxy that passed it on, never as what stands left
        ("10.0.0.1", ["198.51.100.7, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7, 999.1.1.1, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["198.51.100.7, "], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7, _hidden"], "10.0.0.1"),
        # with a port
        ("10.0.0.1", ["198.51.100.7:4711"], "198.51.100.7"),
        ("10.0.0.1", ["[2001:db8::7]:4711"], "2001:db8::7"),
        ("10.0.0.1", ["[2001:db8::7]"], "2001:db8::7"),
        # IPv4 in IPv6 dress, as a dual-stack socket shows it
        ("::ffff:192.0.2.1", [], "192.0.2.1"),
        ("::ffff:10.0.0.1", ["::ffff:198.51.100.7"], "198.51.100.7"),
        ("fe80::1%eth0", [], "fe80::1%eth0"),
    ],
)
def test_the_client_of_a_socket(peer: str, forwarded: list[str], expected: str) -> None:
    assert client_address(ip_address(peer), forwarded, TRUSTED) == ip_address(expected)


def test_nobody_is_trusted_unless_named() -> None:
    assert client_address(ip_address("127.0.0.1"), ["198.51.100.7"], []) == ip_address("127.0.0.1")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
    ],
)
def test_an_ipv6_network_counts_as_one_client(one: str, other: str, same: bool) -> None:
    assert (client_of(ip_address(one)) == client_of(ip_address(other))) is same


@pytest.mark.parametrize("text", ["", "10.0.0.0/33", "10.0.0.1/8", "proxy.example", "10.0.0.0/8 "])
def test_a_trusted_proxy_is_a_network(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        network(text)
