"""How an address of a pool's host is written."""

from __future__ import annotations

import re

from poolclient._errors import InvalidRequest
from poolcore.errors import Reason

DEFAULT_PORT = 7443

_BRACKETED = re.compile(r"(\[[0-9A-Fa-f:.%a-z]+\])(?::(\d+))?")
_PLAIN = re.compile(r"([^\s:/\[\]]+)(?::(\d+))?")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")


def normal_address(address: str) -> str:
    """`HOST`, `HOST:PORT` or an IPv6 address as `host:port`; `unix:///PATH` stays as it is.

    `InvalidRequest` for anything else.
    """
    if address.startswith("unix:/"):
        return address
    if _IPV6.fullmatch(address):
        return f"[{address}]:{DEFAULT_PORT}"
    match = _BRACKETED.fullmatch(address) or _PLAIN.fullmatch(address)
    if match is None:
        problem = f"{address!r} is neither HOST, HOST:PORT nor unix:///PATH"
        raise InvalidRequest(Reason.INVALID_VALUE, field="address", problem=problem)
    port = int(match[2] or DEFAULT_PORT)
    if not 0 < port < 65536:
        problem = f"there is no port {port}"
        raise InvalidRequest(Reason.INVALID_VALUE, field="address", problem=problem)
    return f"{match[1]}:{port}"
