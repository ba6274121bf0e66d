"""Which releases of etcd the pool trusts its metadata to."""

from __future__ import annotations

import re

FIRST_GOOD = (3, 4, 22)
REFUSED = ((3, 5, 0), (3, 5, 6))
"""From the first to below the second: these may lose or corrupt data when they are killed."""


def refusal(version: str) -> str | None:
    """What speaks against a release, such as `3.4.23`; none if it is good."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if found is None:
        return f"“{version}” is no version of etcd"
    numbers = tuple(map(int, found.groups()))
    if numbers < FIRST_GOOD:
        return f"etcd {version} is too old; 3.4.22 is the oldest that will do"
    if REFUSED[0] <= numbers < REFUSED[1]:
        return f"etcd {version} may lose data when it is killed, which 3.5.6 mended"
    return None
