"""Which addresses the operating system knows behind a name."""

from __future__ import annotations

import socket


def addresses_behind(host: str) -> frozenset[str]:
    """The IP addresses of a name or address; empty for one that does not resolve.

    Blocks while a name is resolved.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return frozenset()
    return frozenset(str(address[0]).partition("%")[0] for *_, address in found)
