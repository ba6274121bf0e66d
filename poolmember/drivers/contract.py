"""The contract between a host's daemon and the driver of its hypervisor.

Drivers never block the event loop: blocking libraries run in the driver's own bounded threads,
each call with its own deadline. A driver that cannot answer raises `DriverError`; it does not
answer with less than the truth, because "no VMs found" decides over joins.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from poolcore.facts import Inventory
from poolcore.model import HostId


class DriverError(Exception):
    """The hypervisor did not answer, or not in time; the message says which call and why."""


class Driver(Protocol):
    """What a hypervisor can do for the pool.

    A driver object belongs to one event loop and is made for one host: `host` is put into the
    objects it reports.
    """

    async def open(self, host: HostId) -> None:
        """Connect. Raises `PoolError(NO_HYPERVISOR)` when there is nothing to connect to."""
        ...

    async def inventory(self) -> Inventory:
        """Everything that is on the host now: read completely, or `DriverError`."""
        ...

    def changes(self) -> AsyncIterator[None]:
        """Yields soon (2 s at most) after something on the host has changed, until closed.

        Several changes may be told as one; the caller asks for the inventory then. Never raises
        because the hypervisor went away: it yields when it is back.
        """
        ...

    async def close(self) -> None:
        """Give everything back; `changes()` ends."""
        ...
