"""The URL of a relay: ws:// or wss://, in the one form that is shown, stored and signed."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from amesh_core.errors import Malformed


def check_relay_url(url: str) -> str:
    """Return `url` if it can be a relay's: ws:// or wss://, ASCII, without user or fragment.

    Raises:
        Malformed: says why, without repeating the URL.
    """
    # urlsplit drops line breaks unseen, and the URL will be shown: so the text itself first.
    if not re.fullmatch(r"wss?://[\x21-\x7e]+", url):
        raise Malformed("a relay's URL begins with ws:// or wss://, in ASCII without spaces")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError:  # a port beyond 65535, a broken IPv6 address, an empty label
        raise Malformed("the relay's URL has no valid host and port") from None
    if not host:
        raise Malformed("the relay's URL has no valid host and port")
    # What a browser's parser, and so Node's, would take for another host or for a path.
    if not re.fullmatch(r"[0-9A-Za-z._-]+", host) and ":" not in host:
        raise Malformed("the relay's URL has no valid host and port")
    if "@" in parts.netloc or "#" in url:
        raise Malformed("a relay's URL has no user name, password or fragment")
    return url
