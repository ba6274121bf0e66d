"""The simulated hypervisor: a host as a file describes it, for demonstrations and tests.

Deterministic, and product code like the other drivers: it reports through the same contract. The
file is read again whenever it has changed on disk, which is how "somebody removed the VM" is
played. What nothing here does: run anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from poolcore.errors import PoolError
from poolcore.facts import Inventory
from poolcore.model import HostId, Object
from poolmember.drivers.contract import DriverError, FactOverrides
from poolmember.drivers.sim_file import parse
from poolmember.drivers.sim_host import SimHost
from poolmember.drivers.sim_objects import objects as objects_on
from poolmember.drivers.sim_table import invalid

POLL_SECONDS = 0.5
OBJECTS_AT_ONCE = 1000
"""After so many objects the event loop gets its turn: a file may describe 10,000 VMs."""


class SimDriver:
    """Implements `poolmember.drivers.contract.Driver` from a host file, or without one.

    `host_name` is the host's name in errors. `management_endpoint` (`host:port`) gives the
    management interface its address unless the file does.
    """

    def __init__(self, path: Path | None, *, host_name: str, management_endpoint: str) -> None:
        self._path = path
        self._host_name = host_name
        self._endpoint = management_endpoint
        self._host: HostId | None = None
        self._sim = SimHost()
        # Contents are compared, not times: two edits within one tick of the file system's clock
        # can leave time and size the same.
        self._seen: bytes | None = None
        self._understood: bytes | None = None
        self._inventory: tuple[SimHost, Inventory] | None = None
        self._pokes = 0
        self._poked = asyncio.Event()
        self._closed = False

    @property
    def sim(self) -> SimHost:
        """The host as it was last read."""
        return self._sim

    async def open(self, host: HostId) -> None:
        """Read the file; `PoolError(INVALID_CONFIGURATION)` when that cannot be done."""
        self._host = host
        self._read()

    async def inventory(self) -> Inventory:
        """What the file says now; `DriverError` if it cannot be read or says to fail."""
        try:
            self._read()
        except PoolError as error:
            raise self._error(error.message) from error
        sim = self._sim
        if sim.driver_delay_seconds:
            await asyncio.sleep(sim.driver_delay_seconds)
        if sim.driver_error is not None:
            raise self._error(sim.driver_error)
        if self._inventory is None or self._inventory[0] is not sim:
            self._inventory = sim, await self._built(sim)
        return self._inventory[1]

    async def _built(self, sim: SimHost) -> Inventory:
        if self._host is None:
            raise self._error("the driver is not open")
        objects: list[Object] = []
        for obj in objects_on(sim, self._host, management_endpoint=self._endpoint):
            objects.append(obj)
            if len(objects) % OBJECTS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return Inventory(profile=sim.profile, objects=tuple(objects))

    def changes(self) -> AsyncIterator[None]:
        """Yields when the file is another than the one last read, and at each `poke`."""
        return self._changes(self._seen, self._pokes)

    async def _changes(self, seen: bytes | None, pokes: int) -> AsyncIterator[None]:
        while not self._closed:
            now = self._content_on_disk()
            if (now, self._pokes) != (seen, pokes):
                seen, pokes = now, self._pokes
                yield
                continue
            poked = self._poked
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await poked.wait()
            except TimeoutError:
                pass

    def poke(self) -> None:
        """Make `changes` yield now instead of at its next look at the file."""
        self._pokes += 1
        self._wake()

    def overrides(self) -> FactOverrides:
        """What the file says now or, while it cannot be read, what it said last."""
        try:
            self._read()
        except PoolError:
            # `inventory` reports it; a host does not change its clock because of a typing error.
            return self._sim.overrides
        return self._sim.overrides

    async def close(self) -> None:
        """End `changes`."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        # Whoever waits holds the old event; several may, and none can take another's wake-up.
        poked, self._poked = self._poked, asyncio.Event()
        poked.set()

    def _content(self, path: Path) -> bytes:
        # Small, local, and most often in memory: the event loop can wait for it. An empty file is
        # one that is being rewritten, truncated already; it must not be taken for a fresh host.
        return path.read_bytes() or self._understood or b""

    def _content_on_disk(self) -> bytes | None:
        try:
            return self._content(self._path) if self._path else None
        except OSError:
            return None

    def _read(self) -> None:
        """Take over what the file says, if that is new; PoolError if it is no description."""
        if self._path is None:
            return
        self._seen = None
        try:
            self._seen = self._content(self._path)
            if self._seen != self._understood:
                self._sim = parse(self._seen.decode(), source=str(self._path))
                self._understood = self._seen
        except (OSError, UnicodeDecodeError) as error:
            raise invalid(str(self._path), f"cannot be read: {error}") from error

    def _error(self, problem: str) -> DriverError:
        return DriverError(f"the simulated hypervisor of {self._host_name}: {problem}")
