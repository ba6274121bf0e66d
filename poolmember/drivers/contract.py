"""The contract between a host's daemon and the driver of its hypervisor.

Drivers never block the event loop: blocking libraries run in the driver's own bounded threads,
each call with its own deadline. A driver that cannot answer raises `DriverError`; it does not
answer with less than the truth, because "no VMs found" decides over joins.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from poolcore.facts import Inventory
from poolcore.model import HostId


class DriverError(Exception):
    """The hypervisor did not answer, or not in time; the message says which call and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FactOverrides:
    """What a simulated host pretends about things that no hypervisor tells.

    The daemon measures its clock, its disk and its software itself; a driver for a real hypervisor
    has no say in them and returns an empty object. The simulated driver takes them from the host
    file, so that demonstrations and tests can show every finding of preflight and every crash.
    `None` and empty mean: as it is.
    """

    product_version: str | None = None
    api_version: int | None = None
    schema_version: int | None = None
    booting: bool | None = None
    updating: bool | None = None
    operations: tuple[str, ...] = ()
    """Operations that run on the host, besides its real tasks."""
    clock_skew_seconds: float | None = None
    """Added to the host's clock wherever it tells the time to others."""
    free_disk_bytes: int | None = None
    fsync_seconds: float | None = None
    etcd_version: str | None = None
    """Of the etcd that is installed; `none`: there is none."""
    unreachable: tuple[str, ...] = ()
    """Names or `host:port` endpoints that the host says it cannot reach when it is asked to try."""
    kill_at: tuple[str, ...] = ()
    """Named steps, such as `host.join:reserved`, at which the daemon ends itself by SIGKILL."""
    stop_at: tuple[str, ...] = ()
    """Named steps at which the daemon stops itself by SIGSTOP, until somebody sends SIGCONT."""


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

    def overrides(self) -> FactOverrides:
        """What the host pretends about itself; empty unless it is simulated. Never blocks."""
        ...

    async def close(self) -> None:
        """Give everything back; `changes()` ends."""
        ...
