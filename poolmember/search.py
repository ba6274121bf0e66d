"""What came of asking the pool's hosts for its master, in words that do not grow.

Hosts without a master ask each other. If each passed on in full what the others answer, they would
tell each other ever longer stories of having asked each other.
"""

from __future__ import annotations

import logging

from poolcore.errors import PoolError, Reason

log = logging.getLogger(__name__)

SHOWN = 3


class Search:
    """The last word on each host that was asked in vain, `host:port` each."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def in_vain(self, endpoint: str, error: PoolError) -> None:
        """There was no session with this host, or there is one no longer."""
        why = _why(error)
        if self._said.pop(endpoint, None) != why:
            log.info("no session with %s: %s", endpoint, why)
        self._said[endpoint] = why

    def summary(self) -> str:
        """Why there is no master, in a part of a sentence."""
        if not self._said:
            return "it has not been found yet"
        newest = list(self._said.items())[-SHOWN:]
        more = f" and {len(self._said) - SHOWN} more hosts" if len(self._said) > SHOWN else ""
        return "; ".join(f"{endpoint}: {why}" for endpoint, why in newest) + more


def _why(error: PoolError) -> str:
    if error.reason is Reason.NO_HOST_ANSWERS:
        return "no answer"
    if error.reason is not Reason.NO_MASTER:
        return error.message.rstrip(".")
    if error.params.get("host") == "this host":
        # The master itself, or this end of the session with it.
        return error.params.get("problem", "").rstrip(".")
    return "it has none either"
