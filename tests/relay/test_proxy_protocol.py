"""The PROXY protocol, by the examples and the rules of haproxy.org's proxy-protocol.txt."""

from __future__ import annotations

import contextlib
from ipaddress import ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from amesh_core.errors import Malformed
from amesh_relay import proxy_protocol
from amesh_relay.addresses import Address
from tests.support.proxy_headers import SIGNATURE, version_2


def read(data: bytes, step: int = 2048) -> tuple[Address | None, bytes]:
    """Read a header as a socket would, at most `step` bytes at a time; gives what follows, too."""
    header = b""
    while missing := proxy_protocol.missing(header):
        assert missing > 0
        if len(header) == len(data):
            raise EOFError
        header = data[: len(header) + min(missing, step)]
    return proxy_protocol.client(header), data[len(header) :]


LONGEST = (  # the worst case of section 2.1
    b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
    b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
    b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
    b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
    b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
)
LINES = {
    # Section 2.1, examples of what is sent.
    b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n": "255.255.255.255",
    b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n": "192.168.0.1",
    b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n": "2001:db8::1",
    b"PROXY UNKNOWN\r\n": None,
    LONGEST[0]: None,
    LONGEST[1]: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    LONGEST[2]: None,
}


@pytest.mark.parametrize("step", [1, 7, 2048])
@pytest.mark.parametrize("line", LINES)
def test_version_1(line: bytes, step: int) -> None:
    expected = LINES[line]
    found, rest = read(line + b"GET / HTTP/1.1\r\n", step)
    assert found == (ip_address(expected) if expected else None)
    assert rest == b"GET / HTTP/1.1\r\n", "what follows belongs to somebody else"


def test_the_longest_line_has_so_many_bytes() -> None:
    assert len(LONGEST[2]) == 107


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324\r\n",
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443 \r\n",
        b"PROXY TCP4  192.168.0.1 192.168.0.11 56324 443\r\n",
        b"PROXY TCP4 2001:db8::1 ::1 1 2\r\n",
        b"PROXY TCP6 192.168.0.1 192.168.0.11 1 2\r\n",
        b"PROXY TCP4 192.168.0.256 192.168.0.11 1 2\r\n",
        b"PROXY TCP4 192.168.00.1 192.168.0.11 1 2\r\n",
        b"PROXY TCP4 localhost 192.168.0.11 1 2\r\n",
        b"PROXY tcp4 192.168.0.1 192.168.0.11 1 2\r\n",
        b"PROXY UDP4 192.168.0.1 192.168.0.11 1 2\r\n",
        b"PROXY TCP4\r\n    \r\n",
        b"PROXY \xff\xff\xff\xff 192.168.0.1 1 2\r\n",
        b"PROXY UNKNOWN" + b" " * 93 + b"\r\n",
        b"PROXY TCP4 " + b"1" * 200,
        b"proxy TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        b"GET /ws HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\r\n\r\n\x00\r\nQUIT\r\n!!",
    ],
)
def test_what_is_no_version_1(line: bytes) -> None:
    with pytest.raises(Malformed):
        read(line)


TCP4, UDP4, TCP6, UDP6, UNIX, UNSPECIFIED = 0x11, 0x12, 0x21, 0x22, 0x31, 0x00
IPV4 = bytes([192, 168, 0, 1, 192, 168, 0, 11]) + b"\xdc\x04\x01\xbb"
IPV6 = ip_address("2001:db8::1").packed + ip_address("::1").packed + b"\xdc\x04\x01\xbb"
TLV = b"\x03\x00\x04" + b"\xfd\x16\xee\x60"  # PP2_TYPE_CRC32C, section 2.2.3


@pytest.mark.parametrize("step", [1, 5, 2048])
@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (version_2(TCP4, IPV4), "192.168.0.1"),
        (version_2(TCP4, IPV4 + TLV), "192.168.0.1"),
        (version_2(TCP4, IPV4 + b"\x04\x07\xf1" + bytes(2033)), "192.168.0.1"),  # PP2_TYPE_NOOP
        (version_2(UDP4, IPV4), "192.168.0.1"),
        (version_2(TCP6, IPV6), "2001:db8::1"),
        (version_2(UDP6, IPV6 + TLV), "2001:db8::1"),
        (version_2(UNIX, b"/run/x".ljust(216, b"\0")), None),
        (version_2(UNSPECIFIED, b""), None),
        (version_2(0x41, bytes(12)), None),  # a family that is not assigned
        # The proxy's own health check; whatever it says of addresses does not count.
        (version_2(UNSPECIFIED, b"", command=0x20), None),
        (version_2(TCP4, IPV4, command=0x20), None),
        (version_2(TCP4, b"", command=0x20), None),
    ],
)
def test_version_2(header: bytes, expected: str | None, step: int) -> None:
    follows = b"\x16\x03\x01"
    found, rest = read(header + follows, step)
    assert found == (ip_address(expected) if expected else None)
    assert rest == follows


@pytest.mark.parametrize(
    "header",
    [
        version_2(TCP4, IPV4, command=0x22),
        version_2(TCP4, IPV4, command=0x11),
        version_2(TCP4, IPV4, command=0x31),
        version_2(TCP4, IPV4[:-1]),
        version_2(TCP6, IPV4),
        version_2(TCP6, IPV6[:-1]),
        version_2(TCP4, bytes(2049)),
        version_2(TCP4, bytes(65535)),
        SIGNATURE[:-1] + b"\r" + version_2(TCP4, IPV4)[12:],
    ],
)
def test_what_is_no_version_2(header: bytes) -> None:
    with pytest.raises(Malformed):
        read(header)


@pytest.mark.parametrize("whole", [version_2(TCP6, IPV6 + TLV), *LINES])
def test_half_a_header_waits_for_the_rest(whole: bytes) -> None:
    for end in range(len(whole)):
        with pytest.raises(EOFError):
            read(whole[:end])


HEADERS = st.one_of(
    st.binary(max_size=200),
    st.builds(version_2, st.integers(0, 255), st.binary(max_size=300), command=st.integers(0, 255)),
    st.builds(b"PROXY %b\r\n".__mod__, st.binary(max_size=120)),
    st.builds(
        lambda *words: b" ".join([b"PROXY", *words]) + b"\r\n",
        st.sampled_from([b"TCP4", b"TCP6", b"UNKNOWN", b"x"]),
        st.sampled_from([b"1.2.3.4", b"::1", b"", b"\xff", b"1.2.3", b"fe80::1%eth0"]),
        st.sampled_from([b"1.2.3.4", b"::1"]),
        st.sampled_from([b"1", b"-1"]),
        st.sampled_from([b"2", b"2 3"]),
    ),
)


@given(HEADERS, st.integers(1, 64))
@example(SIGNATURE, 1)
def test_an_address_or_malformed_and_never_too_much(data: bytes, step: int) -> None:
    with contextlib.suppress(Malformed, EOFError):
        found, rest = read(data + b"what follows", step)
        assert found is None or found.packed
        assert rest.endswith(b"what follows")
