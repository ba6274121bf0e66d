"""The driver itself: opens the connection, hands out the inventory, notices changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from poolcore.errors import PoolError, Reason
from poolcore.facts import Inventory
from poolcore.model import HostId
from poolmember.drivers.contract import DriverError, FactOverrides
from poolmember.drivers.libvirt_driver.assembly import assembled
from poolmember.drivers.libvirt_driver.bell import Bell
from poolmember.drivers.libvirt_driver.blocking_calls import BlockingCalls
from poolmember.drivers.libvirt_driver.resolver import addresses_behind

if TYPE_CHECKING:
    from poolmember.drivers.libvirt_driver.connection import Connection
    from poolmember.drivers.libvirt_driver.survey import Fingerprint, Survey

_log = logging.getLogger(__name__)

_HOST_THREADS = 2
"""For the kernel and the resolver; each connection to libvirt has a thread of its own."""
_POLL_SECONDS = 1.5
"""With the time that a poll takes this stays below the 2 s of the contract."""
_POLLS_UNTIL_ASSUMED = 40
"""After a minute a change is assumed: for the few that have neither event nor fingerprint."""
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 2.0


class LibvirtDriver:
    """Drives the hypervisor of this host through libvirt; see `poolmember.drivers.contract`.

    `uri` must lead to this host, not to another one: networks and NICs are read from the kernel.
    `builtin_srs`: names of storage pools that count as what every fresh host has, besides
    libvirt's `default` folder pool. `management_endpoint`: the `host:port` at which other hosts
    reach this one; the interface with that address is the management interface or, if there is
    none (loopback, say), the one of the default route.

    There are no tasks behind the driver: whoever iterates `changes()` does the polling and the
    reconnecting, and `inventory()` connects by itself, too.
    """

    def __init__(
        self,
        uri: str = "qemu:///system",
        *,
        builtin_srs: tuple[str, ...] = ("default",),
        management_endpoint: str,
        call_timeout_seconds: float = 5.0,
    ) -> None:
        self._uri = uri
        self._builtin_srs = builtin_srs
        self._management_host = management_endpoint.rpartition(":")[0].strip("[]")
        self._call_timeout_seconds = call_timeout_seconds
        self._host_calls = BlockingCalls(
            threads=_HOST_THREADS, timeout_seconds=call_timeout_seconds
        )
        self._opened: _Opened | None = None
        self._closing = asyncio.Event()

    async def open(self, host: HostId) -> None:
        """Connect, and read what the hypervisor is.

        Raises `PoolError(NO_HYPERVISOR)` when libvirt-python, the daemon or a hypervisor behind it
        is missing, `PoolError(INVALID_CONFIGURATION)` for a URI of another host.
        """
        if urlsplit(self._uri).hostname:
            raise PoolError(
                Reason.INVALID_CONFIGURATION,
                key="driver",
                problem=f"{self._uri} leads to another host, but each host has a daemon itself",
            )
        try:
            from poolmember.drivers.libvirt_driver.connection import Connection
            from poolmember.drivers.libvirt_driver.survey import Survey
        except ImportError as error:
            problem = f"{error}; `pip install 'poolmaster[libvirt]'` brings libvirt-python"
            raise PoolError(Reason.NO_HYPERVISOR, uri=self._uri, problem=problem) from error
        bell = Bell()
        connection = Connection(self._uri, timeout_seconds=self._call_timeout_seconds, bell=bell)
        self._opened = _Opened(host, bell, connection, Survey(connection, self._host_calls))
        try:
            await connection.connect()
            await self._opened.survey.first_look()
        except DriverError as error:
            await self.close()
            raise PoolError(Reason.NO_HYPERVISOR, uri=self._uri, problem=str(error)) from error

    async def inventory(self) -> Inventory:
        """Everything that is on the host now: read completely, or `DriverError`."""
        opened = self._require_opened()
        try:
            records, links = await opened.survey.records(), await opened.survey.links()
            addresses = await opened.survey.of_host(
                "the management address", lambda: addresses_behind(self._management_host)
            )
            # In a thread, too: the XML of a few hundred domains keeps a processor busy for longer
            # than the event loop can do without.
            inventory = await opened.survey.of_host(
                "the translation",
                lambda: assembled(
                    records,
                    links,
                    host=opened.host,
                    builtin_srs=self._builtin_srs,
                    management_addresses=addresses,
                ),
            )
        except DriverError:
            opened.inventory_failed = True
            raise
        opened.inventory_failed = False
        return inventory

    async def changes(self) -> AsyncIterator[None]:
        """Yields soon after something on the host has changed, until closed.

        The first comes at once: what changed before the iteration began is not known here. After
        that libvirt's events tell of changes; those that have none (NICs, disk images that come
        and go) are found by comparing fingerprints. While the last inventory is one that failed,
        it yields at each poll, so that it is asked for again.
        """
        opened = self._require_opened()
        known: Fingerprint | None = None
        heard, polls, changed = -1, 0, True
        while not self._closing.is_set():
            changed |= await opened.bell.wait_beyond(heard, timeout_seconds=_POLL_SECONDS)
            if not opened.connection.is_up:
                await self._reconnect(opened)
                changed = True
            heard = opened.bell.rings
            now = await self._fingerprint(opened)
            polls += 1
            changed |= now != known or opened.inventory_failed or polls >= _POLLS_UNTIL_ASSUMED
            if changed and now is not None and not self._closing.is_set():
                known, polls, changed = now, 0, False
                yield

    def overrides(self) -> FactOverrides:
        """Empty: this host is what it is."""
        return FactOverrides()

    async def close(self) -> None:
        """Give everything back; `changes()` ends."""
        if self._closing.is_set():
            return
        self._closing.set()
        if self._opened is not None:
            self._opened.bell.ring()
            await self._opened.connection.close()
        self._host_calls.close()

    def _require_opened(self) -> _Opened:
        if self._opened is None or self._closing.is_set():
            raise DriverError("the driver is not open")
        return self._opened

    async def _fingerprint(self, opened: _Opened) -> Fingerprint | None:
        """None while libvirt does not answer."""
        try:
            return await opened.survey.fingerprint()
        except DriverError as error:
            _log.debug("%s", error)
            return None

    async def _reconnect(self, opened: _Opened) -> None:
        """Returns when the connection is back, or the driver is closed."""
        pause_seconds = _FIRST_PAUSE_SECONDS
        while not self._closing.is_set():
            heard = opened.bell.rings
            try:
                await opened.connection.connect()
            except DriverError as error:
                _log.debug("%s", error)
                await opened.bell.wait_beyond(heard, timeout_seconds=pause_seconds)
                pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
            else:
                _log.info("libvirt at %s: connected again", self._uri)
                return


class _Opened:
    """What an open driver has."""

    def __init__(self, host: HostId, bell: Bell, connection: Connection, survey: Survey) -> None:
        self.host = host
        self.bell = bell
        self.connection = connection
        self.survey = survey
        self.inventory_failed = False
